"""Lifetimes of a run's processes: no process, scratch folder or memory file outlives the run.

lifetime.py                 the run's processes end with it
parent_watchdog.py          a process that ends what a killed run left; a hanging verifier: reasoner/workers
subreaper.py, run_marker.py a tree of processes ended; which processes and folders are a run's
abandoned.py                what earlier runs left; scratch_folders.py: folders that know their owner
child_python.py, caller.py  command lines of children; what the program that started a command is told
stacks.py, machine.py       where hanging ranks stand; the memory that there is
"""
