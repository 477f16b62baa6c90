"""The processes that score: everything that runs a stranger's code.

main process      host_process.py --protocol.py, JSON lines over pipes--> host.py, one per run
scoring host      worker_pool.py: deadlines and kills --JSON lines over a socket each--> worker.py, forked

worker_state.py, memory_files.py   what a call left behind
"""
