"""No process outlives the run.

`interruptible` turns SIGTERM and SIGHUP into an exception, so that every context manager unwinds as after Ctrl-C.
`guard_processes` marks everything that the run starts, and has a watchdog (`reasoner.processes.parent_watchdog`) end it
when the run itself is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reasoner.errors import RunError
from reasoner.processes import parent_watchdog
from reasoner.processes.abandoned import remove_abandoned_runs, watchdog_command
from reasoner.processes.run_marker import MARKER, new_marker, scratch_prefix
from reasoner.processes.scratch_folders import scratch_places

_ANSWER_S = parent_watchdog.AT_MOST + 60.0
"""seconds for the watchdog to end: it kills, and removes scratch folders"""


class Interrupted(KeyboardInterrupt):
    """The run was asked to end by a signal other than Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"ended by {self.signal.name}")


@contextmanager
def interruptible() -> Iterator[None]:
    """In the main thread: the first SIGINT, SIGTERM or SIGHUP raises `Interrupted` (a KeyboardInterrupt).

    While the run unwinds, more of them change nothing; SIGKILL does, and then the watchdog cleans up.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for signal_ in numbers:
            signal.signal(signal_, signal.SIG_IGN)
        raise Interrupted(number)

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def guard_processes(places: Sequence[Path] = ()) -> Iterator[None]:
    """Everything that is started inside ends with it: at its end, or within seconds when this process is killed.

    Before that, what runs left behind that were killed together with their watchdog is ended and removed.

    Args:
        places: where this run makes scratch folders beside memory and the folder for temporary files.

    Raises:
        RunError: the system cannot watch processes (no Linux, or no /proc); or at the end, some could not be ended.
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/environ").exists():
        raise RunError(
            "processes cannot be watched here: Linux with /proc is needed, so that none of the run's is left behind"
        )
    remove_abandoned_runs()
    outer = os.environ.get(MARKER)
    environment = {name: value for name, value in os.environ.items() if name != MARKER}
    os.environ[MARKER] = new_marker()
    folders = [str(place.absolute()) for place in (*scratch_places(), *places)]
    guard = subprocess.Popen(
        [*watchdog_command(os.getpid(), os.environ[MARKER]), scratch_prefix(), *folders],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        text=True,
    )
    try:
        yield
    finally:
        left = _dismiss(guard)
        if outer is None:
            del os.environ[MARKER]
        else:
            os.environ[MARKER] = outer
    if left:
        raise RunError(left)


def _dismiss(guard: subprocess.Popen[str]) -> str:
    """Have the watchdog end what is left of the run; returns what went wrong, as an error."""
    guard.send_signal(signal.SIGCONT)  # somebody may have stopped it
    try:
        # a word, not the end of the input: a forked child may hold the other end open
        answer, _ = guard.communicate("done\n", _ANSWER_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        return f"the watchdog does not answer (process {guard.pid}): processes of this run may be left; look with ps"
    if answer.strip():
        return (
            f"processes of this run could not be ended: {answer.strip()}. They wait inside the kernel, for a device "
            "or a file system, and go when that answers or the machine is restarted"
        )
    if guard.returncode:
        return f"the watchdog ended with {guard.returncode}: processes of this run may be left; look with ps"
    return ""
