"""Planning a run: memory, disk, data and verifiers, estimated and checked before anything is loaded.

Input: a configuration. Output: a plan, or the sentence that says what cannot work.

    decide.py                   what the configuration leaves open, decided once
    resources.py, sources.py    data and folders of models; every data source, read and rendered
    memory/, estimate.py        what a run takes; whether it fits, and what to change
    feasibility.py              what is known not to work
    preflight.py                what sources, trackers and servers need
    problem_checks.py           whether sources can judge the problems; references.py: their reference answers
    teacher.py                  the tokenizer and the prompts of a teacher
    rehearsal.py, describe.py   `--dry-run`; the plan in a few lines
"""
