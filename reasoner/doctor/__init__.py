"""`reasoner doctor`: what works on this machine, and what to install for the rest.

check.py                    one finding
environment.py, gpu.py      what was found: packages, engines and sandboxes; GPUs and the ranks on them
"""
