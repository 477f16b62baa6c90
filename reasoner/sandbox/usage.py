"""What a tree of processes uses at this moment. Linux only."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from reasoner.processes.subreaper import children

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = 512
"""bytes that `st_blocks` counts in"""
_PIPE = 2**16
"""bytes that a pipe takes, as nobody inside can make it larger"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over the processes of a tree."""

    threads: int
    memory: int
    """bytes; a page that several processes share is counted for each of them"""
    cpu_s: float
    """with the time of children that have ended and were waited for"""


def tree(root: int) -> list[int]:
    """A process and everything below it."""
    pids = [root]
    for pid in pids:
        pids.extend(children(pid))
    return pids


def usage(pids: list[int]) -> Usage:
    """What these processes use; those that are gone count nothing."""
    threads, pages, ticks = 0, 0, 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = _stat(f"/proc/{pid}")
            ticks += sum(map(int, fields[11:15]))
            threads += int(fields[17])
            if fields[0] == b"Z" and int(fields[17]) > 1:  # its first thread has ended: ask the others
                pages += max(int(_stat(thread)[21]) for thread in _threads(pid))
            else:
                pages += int(fields[21])
    return Usage(threads, pages * _PAGE, ticks / _TICKS)


def proportional_memory(pids: list[int]) -> int:
    """Bytes; a page that n processes share counts one n-th for each. What cannot be read counts as in `usage`."""
    total = 0
    for pid in pids:
        for place in (f"/proc/{pid}", *_threads(pid)):
            with suppress(OSError, StopIteration), open(f"{place}/smaps_rollup", "rb") as file:  # noqa: PTH123
                total += next(int(line.split()[1]) for line in file if line.startswith(b"Pss:")) * 1024
                break
        else:
            total += usage([pid]).memory
    return total


def buffered(pids: list[int]) -> int:
    """Bytes that the pipes and sockets of these processes hold when they are full: how full they are nobody can see.

    Those of processes that this user may not look into count nothing.
    """
    total = 0
    with suppress(PermissionError):
        for about in _open_files(pids):
            if stat.S_ISFIFO(about.st_mode):
                total += _PIPE
            elif stat.S_ISSOCK(about.st_mode):
                total += _socket_bytes()
    return total


def deleted_bytes(pids: list[int], folder: str) -> float:
    """Bytes on disk of files that were deleted from a folder and that these processes still have open.

    Infinite if it cannot be known: a process that hides what it has open, or a deleted file that is mapped and no
    longer open, whose size nobody can see.
    """
    device = os.stat(folder).st_dev  # noqa: PTH116
    total, known = 0, set()
    try:
        for about in _open_files(pids):
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 0 and about.st_dev == device:
                known.add(about.st_ino)
                total += about.st_blocks * _BLOCK
        hidden = set(_mapped_and_deleted(pids, folder)) - known
    except PermissionError:
        return math.inf
    return math.inf if hidden else total


def _open_files(pids: list[int]) -> Iterator[os.stat_result]:
    """Each file once that a process has open; each thread can have a table of its own."""
    seen = set()
    for thread in (thread for pid in pids for thread in _threads(pid)):
        with suppress(FileNotFoundError, ProcessLookupError):
            for number in os.listdir(f"{thread}/fd"):  # noqa: PTH208
                with suppress(FileNotFoundError, ProcessLookupError):
                    about = os.stat(f"{thread}/fd/{number}")  # noqa: PTH116
                    if (key := (about.st_dev, about.st_ino)) not in seen:
                        seen.add(key)
                        yield about


def _mapped_and_deleted(pids: list[int], folder: str) -> Iterator[int]:
    """Numbers (inodes) of files that were deleted from a folder and are mapped."""
    start, end = f"{folder}/".encode(), b" (deleted)"
    for pid in pids:
        for thread in _threads(pid):
            with suppress(FileNotFoundError, ProcessLookupError), open(f"{thread}/maps", "rb") as file:  # noqa: PTH123
                lines = file.read().splitlines()
                mapped = (line.split(maxsplit=5) for line in lines if line.endswith(end))
                yield from (int(fields[4]) for fields in mapped if fields[5].startswith(start))
                if lines:  # all threads share it
                    break


def _threads(pid: int) -> list[str]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [f"/proc/{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    return []


def _stat(place: str) -> list[bytes]:
    with open(f"{place}/stat", "rb") as file:  # noqa: PTH123 (read often)
        return file.read().rpartition(b")")[2].split()


@cache
def _socket_bytes() -> int:
    """What one end of a pair takes: the kernel stops only after the message that goes over the size of the buffer."""
    with open("/proc/sys/net/core/wmem_default", "rb") as file:  # noqa: PTH123
        return int(file.read()) * 3 // 2
