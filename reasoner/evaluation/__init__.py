"""Evaluation metrics as pure functions of scored groups: accuracy, pass@k, confidence intervals, paired differences.

Input: scored groups of held-out problems. Output: figures with 95% intervals.

    metrics.py                  accuracy, pass@k, maj@k, and the paired difference of two evaluations
    intervals.py                intervals of means, and the exact test of paired changes
    training_gate.py            what the untrained policy gets right of a few training problems
    examples.py                 which responses before and after training are shown
"""
