"""`reasoner doctor`: what works on this machine. check.py (one finding), environment.py, gpu.py."""
