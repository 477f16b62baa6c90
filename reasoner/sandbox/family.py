"""A process with everything that it started, where no namespace holds them together."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from typing import TypeVar

from reasoner import watchdog
from reasoner.processes import MARKER
from reasoner.reaping import kill
from reasoner.sandbox.usage import tree

Code = TypeVar("Code")


class Family:
    """Known by its tree, and by a mark in the environment, which those keep who have left the tree."""

    def __init__(self) -> None:
        self._mark = ("REASONER_PROGRAM", uuid.uuid4().hex)
        self._root: int | None = None
        self._lock = threading.Lock()

    def environment(self, folder: str) -> dict[str, str]:
        """Variables for its first process; the mark of the run is there for the watchdog of a run that is killed."""
        run = {MARKER: os.environ[MARKER]} if MARKER in os.environ else {}
        basics = {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
        return {**basics, **run, **dict([self._mark])}

    def begin(self, root: int) -> None:
        """Its first process is there."""
        self._root = root

    def pids(self) -> list[int]:
        """The tree."""
        return [] if self._root is None else tree(self._root)

    def kill(self) -> None:
        """Kill the tree; does nothing once `end` was called."""
        with self._lock:  # a process that was waited for gives back its id, which somebody else may have then
            for pid in self.pids():
                kill(pid)

    def end(self, wait: Callable[[], Code]) -> Code:
        """Wait for the first process, which has ended, and end whatever is left of the others."""
        with self._lock:
            self._root = None
            code = wait()
        watchdog.end_processes("=".join(self._mark))
        return code
