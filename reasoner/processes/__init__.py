"""Processes of a run and what belongs to them: no process, scratch folder or memory file outlives the run.

lifetime.py --starts--> watchdog.py     ends what a killed run left behind
subreaper.py, run_marker.py             ends a tree of processes; knows which processes and folders are a run's
abandoned.py, scratch_folders.py        what earlier runs left; temporary folders that know their owner
child_python.py, stacks.py, machine.py  command lines, stacks of hanging ranks, the memory that there is
"""
