"""Scoring: reward sources run in processes that can be killed, and their verdicts become rewards.

Input: groups of responses. Output: the same with a reward each, components and failures beside it.

    base.py, sharded.py         the protocol; scoring on every rank
    service.py, score_call.py   the main process's side; one `score` call
    workers/                    the processes in which sources run
    composition.py              components to one reward
    reward_table.py             the rewards of one task or of several
    cache.py, statistics.py     equal calls made once; calls counted, and when failures are too many
"""
