"""Scoring: reward sources run in processes that can be killed, their verdicts are composed into rewards.

    main process             scoring host (one per run)         workers (forked from the host)
    ScoringService  ------>  Host: lanes, deadlines, kills ---> Worker: one call at a time
    service.py, call.py <--  host.py, pool.py              <--- worker.py
                     JSON lines (wire.py) over pipes       JSON lines over one socket each

`process.py` starts and ends the host, `reasoner.processes.subreaper` ends process trees. Free of processes:
`compose.py` (components to reward), `cache.py` (equal calls) and `tally.py` (counts, failure rate).
"""
