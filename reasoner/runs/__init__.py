"""The run folder: everything that a run leaves behind, committed step by step.

Input: records and figures of steps. Output: files, and values of whatever state a folder is in.

    folder.py, rank_folder.py   written by the first rank, and by others
    reader.py, find.py          read back; found by name
    rollouts.py, examples.py    responses; a few of them before and after training
    starts.py, environment.py   when it began and on what; versions and hardware
    checkpoints.py, model.py    checkpoints; the trained model
    checksums.py, clock.py      SHA-256; the time of a run
    resuming/                   going on after an interruption
"""
