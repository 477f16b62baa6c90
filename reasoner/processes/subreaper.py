"""Ends processes with everything that they started. Linux only.

A *subreaper* inherits every orphan below it, so nothing leaves the tree by a double fork or a new session. It kills
the children that it does not know, waits for them, and again, until it has none: whatever they had started has come
to it by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasoner.errors import RunError
from reasoner.processes.parent_watchdog import GIVE_UP, Patience, look_at

_log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Inherit the orphans among all descendants of this process.

    Raises:
        RunError: the kernel does not offer what is needed.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise RunError(
            "/proc does not list the children of a process (CONFIG_PROC_CHILDREN): stray processes could not be ended"
        )


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def children(pid: int) -> set[int]:
    """Direct children, dead ones that were not waited for included; empty when there is no such process."""
    pids: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 (a Path per thread is too slow against a fork bomb)
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as listing:  # noqa: PTH123
                pids.update(map(int, listing.read().split()))
    return pids


def kill(pid: int) -> None:
    """Send SIGKILL to a process and its process group, this process's own group excepted.

    The kernel does the group in one go: a fork bomb cannot run away from it. What has left the group, and what is
    below it, becomes a child of the subreaper as its parents die, and is killed there.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        group = os.getpgid(pid)
        if group != os.getpgrp():
            os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def end_children() -> list[str]:
    """End everything below this process, a subreaper, and wait until it is gone.

    Returns:
        What could not be ended, as `PID (name)`.
    """
    left, patience = children(os.getpid()), Patience()
    while has_children():
        now = children(os.getpid())
        for child in now:
            kill(child)
        if patience.is_over(died=bool(left - now)):
            return _process_names(now)
        left = now
        time.sleep(0.001)
    return []


def wait_gone(process: subprocess.Popen[Any]) -> bool:
    """Wait for a child that was killed. One that stays for `GIVE_UP` seconds is named in a warning and left: False."""
    try:
        process.wait(GIVE_UP)
    except subprocess.TimeoutExpired:
        _log.warning(
            "this process was killed and is not gone: %s. It waits inside the kernel", _process_names([process.pid])[0]
        )
        return False
    return True


@contextmanager
def held(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A child that is killed by others: at the end its pipes are closed, and it is waited for, but not for ever."""
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        wait_gone(process)


def dead_children() -> Iterator[tuple[int, int]]:
    """Each dead child with its exit code (as in `subprocess`: negative for a signal).

    Its process id is given back only after the loop's body, so that nobody else can have it meanwhile.
    """
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            yield dead.si_pid, dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
            os.waitpid(dead.si_pid, 0)


def has_children() -> bool:
    """Whether anything that this process started is alive; reaps what is dead. One system call if there is nothing."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _process_names(pids: Iterable[int]) -> list[str]:
    return [f"{pid} ({process.name if (process := look_at(pid)) else 'gone'})" for pid in sorted(pids)]


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise RunError(f"prctl({option}, {value}) failed: {os.strerror(code)}; scoring needs Linux 3.4 or newer")
