"""Commands that show what there is.

tasks.py, algorithms.py, rewards.py, plugins.py, config.py   each `reasoner` and its own name
"""
