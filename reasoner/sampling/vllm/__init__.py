"""vLLM in a process of its own.

engine.py (the sampler) <--process.py, messages.py--> host.py (the process) --> worker.py (inside vLLM's workers)
"""
