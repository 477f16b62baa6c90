"""A sandbox on this machine: a way to start a program, and what all of them share around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from reasoner.sandbox.base import Limits, Outcome, Session, checked_paths
from reasoner.sandbox.running import Child, Running

Start = Callable[[Sequence[str], Mapping[str, bytes], Limits], Child]
"""starts a program in a fresh scratch folder that holds the files"""


@dataclass(frozen=True, slots=True)
class LocalSandbox:
    """A `Sandbox` from a way to start programs."""

    name: str
    start: Start
    interactive: bool = True

    def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Outcome:
        checked_paths(files)
        running = Running(self.start(program, files, limits), limits)
        try:
            running.send(stdin)
            return running.outcome()
        finally:
            running.stop()

    @contextmanager
    def open(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> Iterator[Session]:
        checked_paths(files)
        child = self.start(program, files, limits)
        running = Running(child, limits)
        # `running` looks at the clock while its caller waits for it; this is for a caller that does something else.
        alarm = threading.Timer(limits.wall_s, child.kill)
        alarm.daemon = True
        alarm.start()
        try:
            yield running
        finally:
            alarm.cancel()
            alarm.join()
            running.stop()
