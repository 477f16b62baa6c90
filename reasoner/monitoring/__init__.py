"""What a person sees of a run while it goes, and right after it.

step_metrics.py (figures of a step) --> metrics.py (every name, unit and meaning), alarms.py
view.py --> live.py | plain.py (lines.py, format.py); summary.py at the end; choose.py picks
tracking.py, trackers/   the same figures elsewhere
"""
