"""The processes in which tools and environments run, on top of `reasoner.workers`.

main process       protocol.py, JSON lines over pipes--> host.py, one per run
environment host   worker_pool.py: shared workers, and one for each seat --JSON lines over a socket each--> worker.py
"""
