"""No process outlives the run.

`interruptible` turns SIGTERM and SIGHUP into an exception, so that every context manager unwinds as after Ctrl-C.
`guard_processes` marks everything that the run starts and has a watchdog (`reasoner.watchdog`) end it when the run
itself is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reasoner import watchdog
from reasoner.errors import RunError

MARKER = "REASONER_RUN"
"""environment variable that every process of a run inherits; its value is unique to the run"""


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
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def guard_processes() -> Iterator[None]:
    """Everything that is started inside ends with it: at its end, or within seconds when this process is killed.

    Raises:
        RunError: the system cannot watch processes (no Linux, or no /proc).
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/environ").exists():
        raise RunError(
            "processes cannot be watched here: Linux with /proc is needed, so that none of the run's is left behind"
        )
    outer = os.environ.get(MARKER)
    environment = {name: value for name, value in os.environ.items() if name != MARKER}
    os.environ[MARKER] = uuid.uuid4().hex
    script = Path(watchdog.__file__)
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), str(os.getpid()), f"{MARKER}={os.environ[MARKER]}", scratch_prefix()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # a word, not the end of the input: a forked child may hold the other end open
        guard.communicate(b"done\n")
        if outer is None:
            del os.environ[MARKER]
        else:
            os.environ[MARKER] = outer
    if guard.returncode:
        raise RunError(f"the watchdog ended with {guard.returncode}: processes of this run may be left; look with ps")


def scratch_prefix() -> str:
    """Start of the names of this run's temporary folders, by which the watchdog finds what a killed run left behind."""
    return f"reasoner-{os.environ.get(MARKER, 'alone')}-"
