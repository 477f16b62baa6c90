"""Monitoring a run: metrics of steps, warnings, the live view, the log, the summary and trackers.

Input: groups and figures of steps. Output: lines, a live view, warnings and trackers.

    step_metrics.py, timer.py   figures of a step; the time of its stages, who worked when
    metrics.py                  every metric's name with unit and meaning
    alarms.py                   figures that say that a run goes wrong
    choose.py, view.py          which view; what all views are told
    live.py, plain.py           a block on a terminal; lines for a pipe and `log.txt`
    lines.py, format.py         events and numbers as text
    summary.py                  the end of a run
    tracking.py, trackers/      the same figures elsewhere
"""
