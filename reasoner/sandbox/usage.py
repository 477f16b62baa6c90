"""What a tree of processes uses at this moment. Linux only."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from reasoner.reaping import children

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


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
    found = [root]
    for pid in found:
        found.extend(children(pid))
    return found


def usage(pids: list[int]) -> Usage:
    """What these processes use; those that are gone count nothing."""
    threads, pages, ticks = 0, 0, 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (read often)
                fields = file.read().rpartition(b")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            threads += int(fields[17])
            pages += int(fields[21])
    return Usage(threads, pages * _PAGE, ticks / _TICKS)


def proportional_memory(pids: list[int]) -> int:
    """Bytes; a page that n processes share counts one n-th for each. What cannot be read counts as in `usage`."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
                total += next(int(line.split()[1]) for line in file if line.startswith(b"Pss:")) * 1024
        except (OSError, StopIteration):
            total += usage([pid]).memory
    return total
