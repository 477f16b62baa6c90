"""`reasoner eval` and `reasoner score`: tasks x models, compared with intervals, resumable.

Input: tasks and models. Output: a folder of scored groups and tables of figures with their intervals.

    parts.py                    every pair of a task and a model, checked before anything is loaded
    session.py, loop.py         from the start or an interruption to the results; a model at a time
    folder.py                   every scored group, as soon as it is there
    check.py                    the sampler's log-probabilities beside a plain forward pass
    results.py, table.py        figures and paired comparisons, as values and as text
    rescore.py                  saved responses under other rewards
"""
