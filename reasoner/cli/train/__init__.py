"""Commands that train.

run.py, node.py             `reasoner run`, and its part on every other machine
serve.py                    a vLLM server for runs
"""
