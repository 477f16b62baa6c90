"""The processes that score, on top of `reasoner.workers`.

main process      protocol.py, JSON lines over pipes--> host.py, one per run
scoring host      worker_pool.py: tasks and lanes --JSON lines over a socket each--> worker.py, forked
"""
