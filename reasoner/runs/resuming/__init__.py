"""Resuming a run: resume.py (finds the place, cuts back what came after), rules.py (what may change)."""
