"""Commands that train, or prepare it.

run.py, node.py             `reasoner run`, and its part on every other machine
plan.py, doctor.py          what a run takes; what works here
serve.py                    a vLLM server
progress.py                 how far a command is
"""
