"""vLLM in a process of its own.

engine.py                   the sampler, in the run's process
process.py, messages.py     the other process, started and watched; what the two say to each other
host.py, worker.py          the program of that process; what runs inside vLLM's workers
device_link.py, buckets.py  weights on the GPU that learner and engine share: the learner's end; what both ends say
"""
