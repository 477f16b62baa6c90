"""The memory of a process and everything that it started, watched while it works: for the benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def peak(pid: int, taken: Callable[[Sequence[psutil.Process]], float], interval_s: float) -> Iterator[list[float]]:
    """The highest value, in a list of one, of `taken` for the process and its descendants, looked at that often."""
    highest, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(interval_s):
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                highest[0] = max(highest[0], taken([root, *root.children(recursive=True)]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()
