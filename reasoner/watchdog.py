"""The process that outlives a killed run by a moment: it ends whatever the run left behind.

Run as a script by `reasoner.processes`, with nothing but the standard library: `watchdog.py PID MARKER PREFIX`. It
waits for the end of process PID or for a word on its input, then sends SIGKILL to every process that carries MARKER in
its environment or was seen below PID, and removes the run's scratch folders. Exit code 1: something could not be ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

_LOOK_EVERY = 1.0
"""seconds between looks at the descendants: one that forked without exec carries no marker and must be seen alive"""
_GIVE_UP = 10.0
"""seconds of killing after which the watchdog leaves whatever still cannot be killed"""

Identity = tuple[int, str]
"""process id and start time in clock ticks: ids are used again"""


def watch(pid: int, marker: str, prefix: str) -> int:
    """Wait for the end of `pid` or for a word from it; then clean up. Returns the exit code."""
    seen = descendants(pid)
    with contextlib.suppress(ProcessLookupError):  # it may have been killed before this process was up
        pidfd = os.pidfd_open(pid)
        while not select.select([pidfd, sys.stdin], [], [], _LOOK_EVERY)[0]:
            seen |= descendants(pid)
    left = end_processes(marker, seen | descendants(pid))
    remove_scratch(prefix)
    return int(bool(left))


def end_processes(marker: str, seen: Iterable[Identity] = ()) -> list[int]:
    """Kill every process with the marker and the given ones, until none is left; returns what could not be killed."""
    known = set(seen)
    deadline = time.monotonic() + _GIVE_UP
    while True:
        left = {found for found in known | marked(marker) if _is_alive(found)}
        if not left or time.monotonic() > deadline:
            return [pid for pid, _ in left]
        for pid, _ in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def remove_scratch(prefix: str) -> None:
    """Remove the folders for passing weights that a killed run left in memory or on disk."""
    for parent in {Path("/dev/shm"), Path(tempfile.gettempdir())}:
        for folder in parent.glob(prefix + "*"):
            shutil.rmtree(folder, ignore_errors=True)


def marked(marker: str) -> set[Identity]:
    """All processes but this one with `marker` (`NAME=value`) in their environment."""
    wanted = marker.encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found |= _identity(int(entry.name))
    return found


def descendants(pid: int) -> set[Identity]:
    """All processes below `pid` but this one, by the parent that each names."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            below.setdefault(int(stat[1]), []).append(int(entry.name))
    found: set[Identity] = set()
    queue = [pid]
    while queue:
        children = [child for child in below.get(queue.pop(), []) if child != os.getpid()]
        queue += children
        for child in children:
            found |= _identity(child)
    return found


def _identity(pid: int) -> set[Identity]:
    stat = _stat(pid)
    return {(pid, stat[19])} if stat else set()


def _is_alive(identity: Identity) -> bool:
    stat = _stat(identity[0])
    return bool(stat) and stat[19] == identity[1] and stat[0] not in "ZX"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty when the process is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    sys.exit(watch(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
