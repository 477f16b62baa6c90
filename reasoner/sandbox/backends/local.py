"""A sandbox on this machine: a way to start a program, and what all of them share around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from reasoner.sandbox.base import Limits, Outcome, SandboxError, Session, checked_paths
from reasoner.sandbox.running import Child, Running

StartProgram = Callable[[Sequence[str], Mapping[str, bytes], Limits, ExitStack], Child]
"""Starts a program in a new scratch folder that holds the files. The clean-up is pushed onto the stack, also where the
start fails: ending processes, closing descriptors, removing folders."""


@dataclass(frozen=True, slots=True)
class LocalSandbox:
    """A `Sandbox` from a way to start programs."""

    name: str
    start: StartProgram
    interactive: bool = True

    def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Outcome:
        with self._start(program, files, limits) as running:
            running.send(stdin)
            return running.outcome()

    @contextmanager
    def open(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> Iterator[Session]:
        with self._start(program, files, limits) as running:
            # `running` looks at the clock while its caller waits for it; this is for a caller that does something else.
            alarm = threading.Timer(limits.wall_s, running.kill)
            alarm.daemon = True
            alarm.start()
            try:
                yield running
            finally:
                alarm.cancel()
                alarm.join()

    @contextmanager
    def _start(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> Iterator[Running]:
        checked_paths(files)
        with ExitStack() as undo:
            try:
                child = self.start(program, files, limits, undo)
            except OSError as error:
                raise SandboxError(f"{self.name} could not start a program: {error}") from error
            running = Running(child, limits)
            try:
                yield running
            finally:
                running.stop()
