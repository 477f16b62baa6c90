"""The objective as data: choices and numbers, without torch.

terms.py (one term), presets.py (the methods, a row each), schedules.py (weights over the run)
registry.py (built-in and plugins' methods), validation.py (what fits together), describe.py (in words)
"""
