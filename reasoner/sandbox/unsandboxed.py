"""No sandbox: the program is a plain child process with limits, and nothing else. Only on explicit request.

It can read, write and send whatever this user can. Its memory, CPU seconds, processes, output and scratch folder are
watched and everything that it started is killed at its end, but a program that means to get away does.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from reasoner.sandbox.base import End, Limits
from reasoner.sandbox.family import Family
from reasoner.sandbox.limits import limit_process
from reasoner.sandbox.local import LocalSandbox
from reasoner.sandbox.pipes import GATE, Pipes, ending, open_gate
from reasoner.sandbox.scratch import Scratch


def unsandboxed() -> LocalSandbox:
    """Runs programs with no isolation at all."""
    return LocalSandbox("none (programs are not isolated)", Plain)


class Plain:
    """A program without a sandbox (a `Child`)."""

    def __init__(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, undo: ExitStack) -> None:
        self._scratch = Scratch(files, limits.scratch_mb * 2**20)
        undo.callback(self._scratch.remove)
        self._family = Family()
        folder = str(self._scratch.path)
        self._process = undo.enter_context(
            subprocess.Popen(
                [*GATE, *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=self._family.environment(folder),
                start_new_session=True,
            )
        )
        undo.callback(self._process.kill)
        self.pipes = Pipes(self._process.stdin, self._process.stdout, self._process.stderr)
        undo.callback(self.pipes.close)
        self.ended = os.pidfd_open(self._process.pid)
        undo.callback(os.close, self.ended)
        limit_process(self._process.pid, limits, processes=None)
        self._family.begin(self._process.pid)
        open_gate(self.pipes)

    def pids(self) -> list[int]:
        return self._family.pids()

    def full(self) -> bool:
        return self._scratch.full()

    def kill(self) -> None:
        self._family.kill()

    def finish(self, killed: bool) -> tuple[End, int]:
        return ending(self._family.end(self._process.wait))
