"""The process that watches its parent, the run: when the run has ended or was killed, it ends what is left of it.

`reasoner.processes.lifetime` runs it as a script, with the standard library alone:
`parent_watchdog.py PID MARKER PREFIX FOLDER ...`. It waits for the end of process PID or for a word on its input, then
sends SIGKILL to every process that carries MARKER in its environment or was seen below PID, and removes the run's
scratch folders (PREFIX...) from the FOLDERs. It prints the processes that it could not end; the exit code is 1 then.

A verifier that hangs is ended elsewhere, by its worker's deadline (`reasoner.workers`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_LOOK_EVERY = 1.0
"""seconds between looks at the descendants: one that forked without exec carries no marker and must be seen alive"""
_SHARE = 0.02
"""of a core, at most, for these looks: on a machine with thousands of processes they are further apart"""
GIVE_UP = 10.0
"""seconds of killing in which nothing dies any more, after which is left what still cannot be killed"""
AT_MOST = 120.0
"""seconds of killing altogether: something that forks as fast as it dies must not keep a command from its end"""

ISOLATED = ("-I", "-S")
"""options of the interpreter that runs a watchdog"""

Identity = tuple[int, str]
"""process id and start time in clock ticks: ids are used again"""


class Process(NamedTuple):
    """What /proc says of a process."""

    parent: int
    start: str
    """clock ticks since the machine was started"""
    dead: bool
    """only its parent has not waited for it yet"""
    stopped: bool
    name: str


class Patience:
    """How long killing goes on: as long as something dies, and `GIVE_UP` seconds more, but never beyond `AT_MOST`."""

    def __init__(self) -> None:
        self._start = self._progress = time.monotonic()

    def is_over(self, died: bool) -> bool:
        """To be asked after a round of killing, with whether something has died since the last one."""
        now = time.monotonic()
        if died:
            self._progress = now
        return now - self._progress > GIVE_UP or now - self._start > AT_MOST


def watch(pid: int, marker: str, prefix: str, folders: Sequence[str]) -> list[str]:
    """Wait for the end of `pid` or for a word from it; then clean up. Returns what could not be ended."""
    seen: set[Identity] = set()
    with contextlib.suppress(ProcessLookupError):  # it may have been killed before this process was up
        pidfd = os.pidfd_open(pid)
        while True:
            before = time.process_time()
            seen = look(pid, seen)
            pause = max(_LOOK_EVERY, (time.process_time() - before) / _SHARE)
            if select.select([pidfd, sys.stdin], [], [], pause)[0]:
                break
    left = end_processes(marker, _without_watchdogs(look(pid, seen)))
    remove_scratch(prefix, folders)
    return left


def look(pid: int, seen: Iterable[Identity]) -> set[Identity]:
    """What is below `pid` now and what was seen there and lives, with everything below that; without `pid` itself."""
    table = processes()
    known = _alive(seen, table)
    known |= _descendants({pid, *(known_pid for known_pid, _ in known)}, table)
    return {identity for identity in known if identity[0] != pid}


def end_processes(marker: str, seen: Iterable[Identity] = ()) -> list[str]:
    """Kill every process with the marker (`NAME=value`), the given ones, and what is below them, until none is left.

    Returns:
        What could not be killed, as `PID (name)`.
    """
    known, patience = set(seen), Patience()
    while True:
        table = processes() if known else {}
        left = _alive(known, table)
        left |= _without_watchdogs(_descendants({pid for pid, _ in left}, table) - left)
        for identity in left:
            send_signal(identity, signal.SIGKILL)
        for identity in marked(marker):  # slow on a large machine: every environment is read
            if identity not in left:
                send_signal(identity, signal.SIGKILL)
                left.add(identity)
        if not left:
            return []
        if patience.is_over(died=bool(known - left)):
            return sorted(f"{pid} ({process.name})" for pid, _ in left if (process := look_at(pid)))
        known = left
        time.sleep(0.02)


def remove_scratch(prefix: str, folders: Iterable[str]) -> None:
    """Remove the folders for passing weights and for temporary files that a killed run left behind."""
    for parent in map(Path, folders):
        for folder in parent.glob(prefix + "*"):
            shutil.rmtree(folder, ignore_errors=True)


def marked(marker: str) -> Iterator[Identity]:
    """All living processes but this one with `marker` (`NAME=value`) in their environment, each as it is found."""
    wanted = marker.encode()
    for pid in _ids():
        if wanted in environment(pid) and (process := look_at(pid)) and not process.dead:
            yield pid, process.start


def environment(pid: int) -> list[bytes]:
    """The variables (`NAME=value`) that a process was started with; none when they cannot be read."""
    return (_read(f"/proc/{pid}/environ") or b"").split(b"\0")


def command(pid: int) -> list[str]:
    """The words of the command line of a process; none when they cannot be read."""
    return (_read(f"/proc/{pid}/cmdline") or b"").decode(errors="replace").split("\0")[:-1]


def processes() -> dict[int, Process]:
    """All processes but this one."""
    return {pid: process for pid in _ids() if (process := look_at(pid))}


def look_at(pid: int) -> Process | None:
    """A process; None: there is none, or it is hidden from this user."""
    head, _, tail = (_read(f"/proc/{pid}/stat") or b"").rpartition(b")")
    fields = tail.split()
    if not fields:
        return None
    # one whose first thread has ended while others run is called a zombie too
    dead = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    name = head.partition(b"(")[2].decode(errors="replace")
    return Process(int(fields[1]), fields[19].decode(), dead, fields[0] == b"T", name)


def _ids() -> Iterator[int]:
    own = os.getpid()
    for name in os.listdir("/proc"):  # noqa: PTH208 (a Path for each is too slow where there are thousands)
        if name.isdigit() and int(name) != own:
            yield int(name)


def _alive(identities: Iterable[Identity], table: Mapping[int, Process]) -> set[Identity]:
    """Those that live; of the rest nothing must be kept, as a run starts millions of processes."""
    return {
        (pid, start)
        for pid, start in identities
        if (process := table.get(pid)) and process.start == start and not process.dead
    }


def _descendants(roots: Iterable[int], table: Mapping[int, Process]) -> set[Identity]:
    """All living descendants, by the parent that each names."""
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    below: set[Identity] = set()
    queue = list(roots)
    while queue:
        for child in children.pop(queue.pop(), ()):
            queue.append(child)
            below.add((child, table[child].start))
    return _alive(below, table)


def _without_watchdogs(identities: Iterable[Identity]) -> set[Identity]:
    """That of a rank is not to be killed: it ends by itself, once it has removed what the rank had left."""
    return {identity for identity in identities if not is_watchdog(command(identity[0]))}


def send_signal(identity: Identity, number: int) -> None:
    """Signal just this process: not another one that has been given its id."""
    pid, start = identity
    with contextlib.suppress(ProcessLookupError, PermissionError):
        pidfd = os.pidfd_open(pid)
        try:
            process = look_at(pid)
            if process and process.start == start:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def is_watchdog(words: Sequence[str]) -> bool:
    """Whether a command line is that of a watchdog: this installation's or another one's."""
    script = Path(__file__).parts[-2:]
    return len(words) > 3 and tuple(words[1:3]) == ISOLATED and Path(words[3]).parts[-2:] == script


def _read(file: str) -> bytes | None:
    """A file of /proc; None: its process is gone, or somebody else's."""
    with contextlib.suppress(OSError), open(file, "rb", buffering=0) as opened:  # noqa: PTH123 (read often)
        return opened.readall()
    return None


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    left = watch(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
    with contextlib.suppress(BrokenPipeError):  # nobody is left to be told
        print(", ".join(left), flush=True)  # noqa: T201
    sys.exit(int(bool(left)))
