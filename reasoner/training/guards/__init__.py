"""What ends a run that would train on nonsense: canary.py (every family of parameters is seen to arrive in the
sampler), nonfinite.py (losses and gradients), applicability.py (sources that judge nothing), time_limit.py
(`run.max_hours`).
"""
