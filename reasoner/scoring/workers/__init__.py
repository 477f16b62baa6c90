"""The processes that score: everything that runs a stranger's code.

    host_process.py (main process) --protocol.py--> host.py --> worker_pool.py --> worker.py

`worker_state.py` and `memory_files.py` look at what a call left behind.
"""
