"""Figures of scored groups as pure functions.

metrics.py        accuracy, pass@k, what changed         intervals.py   95% intervals, paired tests
training_gate.py  a few training problems at the start   examples.py    responses before and after training
"""
