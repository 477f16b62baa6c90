"""What ends a run that would train on nonsense, or has no time left.

canary.py                   every family of parameters is seen to arrive in the sampler
nonfinite.py                losses and gradients that are not finite, and the responses behind them
applicability.py            reward sources that judge nothing
environment_failures.py     environments that fail on too many responses
time_limit.py               `run.max_hours`
"""
