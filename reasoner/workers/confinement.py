"""What a worker may reach and use, and whether a call has left something behind in it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reasoner.processes.subreaper import become_subreaper, children, die_with_parent, has_children
from reasoner.workers.memory_files import MemoryFiles
from reasoner.workers.worker_state import WorkerState

MAX_LEFT = 2000
"""characters that say what was left"""


def confine(memory_mb: int | None, output: int) -> None:
    """Cut the worker off from its host and limit its memory (None: no limit); called right after the fork.

    Args:
        memory_mb: of address space.
        output: descriptor for what the calls print; it is taken over.
    """
    os.setsid()
    die_with_parent()
    become_subreaper()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    with suppress(AttributeError):  # a plugin may have put something else in its place
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed call flushes nothing
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_mb * 2**20 if hard == resource.RLIM_INFINITY else min(memory_mb * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a call may leave behind."""

    state: WorkerState
    files: MemoryFiles
    streams: tuple[tuple[int, int], ...]
    """what standard input, output and error were when the worker began"""

    @classmethod
    def of_now(cls, files: MemoryFiles) -> Leftovers:
        """Compared with the state of this process as it is."""
        return cls(WorkerState(), files, _streams())

    def look(self) -> str:
        """What it left, in words: processes, threads, files in memory, and what differs in the state of this process.
        What every call may change is set back."""
        self.state.set_back()
        left = self.state.changes()
        if threading.active_count() > 1:
            left += [
                f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()
            ]
        if has_children():
            left += [f"process {_command(pid)}" for pid in sorted(children(os.getpid()))]
        if _streams() != self.streams:
            left.append("standard input, output or error")
        left += [f"file /dev/shm/{name}" for name in self.files.left()]
        return ", ".join(left)[:MAX_LEFT]


def _command(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        line = b""
    return line.replace(b"\0", b" ").decode(errors="replace").strip()[:60] or f"{pid} (ended, not waited for)"


def _streams() -> tuple[tuple[int, int], ...]:
    """What standard input, output and error are; shorter where one of them is closed."""
    open_files = []
    for stream in (0, 1, 2):
        with suppress(OSError):
            status = os.fstat(stream)
            open_files.append((status.st_dev, status.st_ino))
    return tuple(open_files)
