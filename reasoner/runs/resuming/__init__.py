"""Resuming a run.

resume.py                   finds the place, and cuts back what came after
rules.py                    which keys may change, and what that does to results
"""
