"""The run folder: everything that a run leaves behind, committed step by step.

folder.py (written), reader.py (read back in any state), rank_folder.py (of ranks that are not the first)
checkpoints.py, checksums.py, starts.py, environment.py, rollouts.py   what is in it
find.py, resume.py                                                     finding one, and resuming it
"""
