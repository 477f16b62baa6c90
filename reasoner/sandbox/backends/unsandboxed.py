"""No sandbox: the program is a plain child process with limits, and nothing else. Only on explicit request.

It can read, write and send whatever this user can. Its memory, CPU seconds, processes, output and scratch folder are
watched and everything that it started is killed at its end, but a program that means to get away does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from reasoner.processes.subreaper import held
from reasoner.sandbox.backends.local import LocalSandbox
from reasoner.sandbox.base import End, Limits
from reasoner.sandbox.family import ProcessFamily
from reasoner.sandbox.pipes import GATE, Pipes, ending


def unsandboxed() -> LocalSandbox:
    """Runs programs with no isolation at all."""
    return LocalSandbox("none (programs are not isolated)", Plain)


class Plain(ProcessFamily):
    """A program without a sandbox (a `Child`)."""

    def __init__(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, undo: ExitStack) -> None:
        super().__init__(files, limits, undo)
        self._process = undo.enter_context(
            held(
                subprocess.Popen(
                    [*GATE, *program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=self.folder,
                    env=self.environment(),
                    start_new_session=True,
                )
            )
        )
        undo.callback(self._process.kill)
        pipes = Pipes(self._process.stdin, self._process.stdout, self._process.stderr)
        self.begin(self._process.pid, pipes, undo)

    def finish(self, killed: bool) -> tuple[End, int]:
        return ending(self.end(self._process.wait))
