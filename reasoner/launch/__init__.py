"""Launching the ranks of a run, on this machine and on others, and ending all when one fails.

Input: a command with its number of GPUs and machines. Output: one exit code.

    launcher.py                 the ranks of this node
    cluster.py, ssh.py          which machines; a launcher on each
    coordination.py             what the launchers tell each other
"""
