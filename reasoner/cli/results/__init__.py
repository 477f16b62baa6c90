"""Commands that look at what is there after training.

runs.py, report.py, export.py    a run's folder
eval.py, score.py                models on tasks; saved responses under other rewards
"""
