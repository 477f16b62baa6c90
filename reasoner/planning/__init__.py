"""What a run will take and whether it can work, found out before anything is loaded.

resources.py (data and model folders) --> memory.py --> estimate.py (does it fit, what to change)
feasibility.py, preflight.py   what is refused; what is asked of sources, trackers and servers
describe.py                    the plan in a few lines
"""
