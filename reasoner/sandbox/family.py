"""A program with everything that it started, where no namespace holds them together."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TypeVar

from reasoner.processes import parent_watchdog
from reasoner.processes.run_marker import MARKER
from reasoner.processes.subreaper import kill
from reasoner.sandbox.base import Limits, SandboxError
from reasoner.sandbox.limits import limit_process
from reasoner.sandbox.pipes import Pipes, await_gate, open_gate
from reasoner.sandbox.scratch import Scratch
from reasoner.sandbox.usage import deleted_bytes, tree

Code = TypeVar("Code")


class ProcessFamily:
    """Most of a `Child`: its processes are known by their tree, and by a mark in the environment that those keep who
    have left the tree; its scratch folder lies on this machine's disk.
    """

    def __init__(self, files: Mapping[str, bytes], limits: Limits, undo: ExitStack) -> None:
        self._limits = limits
        self._scratch = Scratch(files, limits.scratch_mb * 2**20)
        undo.callback(self._scratch.remove)
        self._mark = ("REASONER_PROGRAM", uuid.uuid4().hex)
        self._root: int | None = None
        self._lock = threading.Lock()
        self.folder = str(self._scratch.path)
        """the scratch folder"""

    def environment(self) -> dict[str, str]:
        """Variables for its first process; the mark of the run is there for the watchdog of a run that is killed."""
        run = {MARKER: os.environ[MARKER]} if MARKER in os.environ else {}
        basics = {"PATH": "/usr/bin:/bin", "HOME": self.folder, "TMPDIR": self.folder, "LANG": "C.UTF-8"}
        return {**basics, **run, **dict([self._mark])}

    def begin(self, root: int, pipes: Pipes, undo: ExitStack) -> None:
        """Limit its first process, which waits behind a gate, and let it start."""
        undo.callback(pipes.close)
        self.pipes = pipes
        self.ended = os.pidfd_open(root)
        undo.callback(os.close, self.ended)
        await_gate(pipes)
        limit_process(root, self._limits, processes=None)
        self._root = root
        open_gate(pipes)

    def pids(self) -> list[int]:
        return [] if self._root is None else tree(self._root)

    def full(self) -> bool:
        return self._scratch.full(deleted_bytes(self.pids(), self.folder))

    def kill(self) -> None:
        with self._lock:  # a process that was waited for gives back its id, which somebody else may have then
            for pid in self.pids():
                kill(pid)

    def end(self, wait: Callable[[], Code]) -> Code:
        """Wait for the first process, which has ended, and end whatever is left of the others."""
        with self._lock:
            self._root = None
            code = wait()
        if survivors := parent_watchdog.end_processes("=".join(self._mark)):
            raise SandboxError(f"what a program started could not be ended: {', '.join(survivors)}")
        return code
