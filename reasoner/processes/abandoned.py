"""What killed runs left behind where their watchdog was killed or stopped too; the next start ends and removes it.

Only what is certainly nobody's: processes of this user that carry the mark of a run whose main process is gone, and
scratch folders of this user that nobody locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator

from reasoner.processes import parent_watchdog
from reasoner.processes.run_marker import MARKER, is_gone
from reasoner.processes.scratch_folders import remove_abandoned, scratch_places

_log = logging.getLogger(__name__)

_VARIABLE = f"{MARKER}="


def watchdog_command(pid: int, marker: str) -> list[str]:
    """The command line of a run's watchdog, by which it is known, without prefix and folders."""
    return [sys.executable, *parent_watchdog.ISOLATED, parent_watchdog.__file__, str(pid), _VARIABLE + marker]


def remove_abandoned_runs() -> None:
    """End the processes and remove the scratch folders of runs that are over. It says what it ends, in a warning."""
    around = set(_ancestor_marks())
    gone: dict[str, list[str]] = {}
    for pid in _own_processes():
        process, marker = parent_watchdog.look_at(pid), _mark_of(pid)
        if process and marker and marker not in around and is_gone(marker):
            gone.setdefault(marker, []).append(f"{pid} ({process.name})")
        elif process and process.stopped and _watches_nothing(pid):
            _log.warning("continuing the watchdog of a killed run, which was stopped: process %s", pid)
            parent_watchdog.send_signal((pid, process.start), signal.SIGCONT)
    for marker, processes in gone.items():
        _log.warning("ending what a killed run left behind: %s", ", ".join(processes))
        if left := parent_watchdog.end_processes(_VARIABLE + marker):
            _log.warning("these could not be ended: %s", ", ".join(left))
    for place in scratch_places():
        remove_abandoned(place)


def _own_processes() -> Iterator[int]:
    """This user's, without this one."""
    for pid in parent_watchdog.processes():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.geteuid():  # noqa: PTH116
                yield pid


def _ancestor_marks() -> Iterator[str]:
    """The marks of this process and of those above it: a command inside of a run does not end what it is in."""
    pid = os.getpid()
    while process := parent_watchdog.look_at(pid):
        yield _mark_of(pid)
        pid = process.parent


def _mark_of(pid: int) -> str:
    """The mark that a process was started with; empty: none."""
    variables = (variable for variable in parent_watchdog.environment(pid) if variable.startswith(_VARIABLE.encode()))
    return next(variables, b"").decode(errors="replace").removeprefix(_VARIABLE)


def _watches_nothing(pid: int) -> bool:
    """Whether it is the watchdog of a run that is over."""
    words = parent_watchdog.command(pid)
    if len(words) < 6 or not parent_watchdog.is_watchdog(words):
        return False
    marker = words[5].removeprefix(_VARIABLE)
    return f".{words[4]}." in marker and is_gone(marker)
