"""Ends processes with everything that they started. Linux only.

A *subreaper* inherits every orphan below it, so a process cannot leave its tree by a double fork or a new session:
whoever holds the root of the tree finds all of it in /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from reasoner.errors import RunError

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


def die_with_parent() -> None:
    """Have the kernel end this process (SIGKILL) when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid: int) -> set[int]:
    """Direct children, dead ones that were not waited for included; empty when there is no such process."""
    found: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, listing.read_text().split()))
    return found


def descendants(pid: int) -> set[int]:
    """Children, their children, and so on."""
    found: set[int] = set()
    fresh = children(pid)
    while fresh:
        found |= fresh
        fresh = set().union(*map(children, fresh)) - found
    return found


def end_tree(root: int, *, spare_root: bool = False) -> None:
    """Send SIGKILL to a process and everything below it.

    All are stopped first, pass after pass until no new one is found: a stopped process cannot fork away from its
    killer.
    """
    stopped: set[int] = set() if spare_root else {root}
    _send(stopped, signal.SIGSTOP)
    while fresh := descendants(root) - stopped:
        _send(fresh, signal.SIGSTOP)
        stopped |= fresh
    _send(stopped, signal.SIGKILL)


def end_children() -> None:
    """End everything below this process, a subreaper, and wait until it is gone. Cheap when there is nothing."""
    while _has_children():
        end_tree(os.getpid(), spare_root=True)
        time.sleep(0.001)


def dead_children() -> Iterator[tuple[int, int]]:
    """Each dead child with its exit code (as in `subprocess`: negative for a signal).

    Its process id is given back only after the loop's body, so that nobody else can have it meanwhile.
    """
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            yield dead.si_pid, dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
            os.waitpid(dead.si_pid, 0)


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise RunError(f"prctl({option}, {value}) failed: {os.strerror(code)}; scoring needs Linux 3.4 or newer")
