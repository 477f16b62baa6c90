"""Figures of scored groups as pure functions: accuracy.py (accuracy, pass@k, what changed), intervals.py (95%
intervals, paired tests)."""
