"""Worker processes for untrusted code, which are killed at a deadline with everything that they started.

main process   host_process.py --JSON lines over pipes--> host.py: imports the plugins once, forks workers
host           worker_pool.py: deadlines and kills --JSON lines over a socket each--> a worker

confinement.py              what a worker may reach and use; calls.py: how a call of a stranger is made
worker_state.py, memory_files.py   what a call left behind
lines.py, json_values.py    the lines between the processes; what a call returned, bounded
"""
