"""Commands on results: evaluate, compare, report, export.

eval.py, score.py           models on tasks; saved responses under other rewards
runs.py, report.py, export.py
                            what is in a run's folder: its state, its report, its model
"""
