"""A program that runs: its pipes are served, its limits watched, and at its end nothing of it is left.

This is the part that all local sandboxes share; they differ in how the program is started (`Child`).
"""

from __future__ import annotations

import os
import select
import selectors
import time
from typing import Protocol

from reasoner.sandbox.base import End, Limits, Outcome
from reasoner.sandbox.usage import proportional_memory, usage

FIRST_LOOK_S = 0.03
"""seconds before the first look at what the program uses; doubled up to `LAST_LOOK_S`"""
LAST_LOOK_S = 0.2
_CHUNK = 2**16


class Child(Protocol):
    """A started program, as a backend hands it over."""

    stdin: int
    stdout: int
    stderr: int
    """its ends of the pipes; `Running` closes them"""
    ended: int
    """a descriptor that is readable when the program has ended"""

    def pids(self) -> list[int]:
        """All processes of the program that are alive; empty until it is started in its scratch folder."""

    def full(self) -> bool:
        """Whether the scratch folder holds more than it may."""

    def kill(self) -> None:
        """Kill the program and everything that it started; safe to call at any time and from any thread."""

    def finish(self, killed: bool) -> tuple[End, int]:
        """Once `ended` is readable: wait until nothing of it is left, and say how it ended.

        Raises:
            SandboxError: it never started, or the sandbox broke; not when it was killed on purpose.
        """

    def close(self) -> None:
        """Let go of what belongs to it; called last."""


class Running:
    """Moves bytes between the program and its caller until it ends by itself or at a limit.

    It waits for pipes and the end of the program in one place, `_turn`, and looks at deadline and usage there.
    """

    def __init__(self, child: Child, limits: Limits) -> None:
        self._child, self._limits = child, limits
        self._start = time.monotonic()
        self._deadline = self._start + limits.wall_s
        self._pause = FIRST_LOOK_S
        self._look = self._start + self._pause
        self._input = memoryview(b"")
        self._closing = False
        self._outputs = {child.stdout: bytearray(), child.stderr: bytearray()}
        self._read = 0
        self._killed: End | None = None
        self._outcome: Outcome | None = None
        self._selector = selectors.DefaultSelector()
        for pipe in (child.stdin, *self._outputs):
            os.set_blocking(pipe, False)
        for source in (*self._outputs, child.ended):
            self._selector.register(source, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        self._input = memoryview(bytes(self._input) + data)
        self._write()
        while self._input and self._outcome is None:
            self._turn()

    def close_input(self) -> None:
        self._closing = True
        self._write()

    def receive_line(self) -> bytes | None:
        output = self._outputs[self._child.stdout]
        searched = self._read
        while True:
            end = output.find(b"\n", searched) + 1
            if end or self._outcome is not None:
                line = bytes(output[self._read : end or len(output)])
                self._read += len(line)
                return line or None
            searched = len(output)
            self._turn()

    def outcome(self) -> Outcome:
        self.close_input()
        while self._outcome is None:
            self._turn()
        return self._outcome

    def stop(self) -> None:
        """Kill it if it is still there, and let go of everything."""
        try:
            if self._outcome is None:
                self._kill("timeout")
                self._wait_for_end()
        finally:
            self._close_input_pipe()
            self._selector.close()
            for pipe in self._outputs:
                os.close(pipe)
            self._child.close()

    def _turn(self) -> None:
        """Wait for the next thing to happen and deal with it."""
        patience = max(0.0, min(self._deadline, self._look) - time.monotonic())
        events = {key.fd for key, _ in self._selector.select(patience)}
        for pipe in events & self._outputs.keys():
            if not self._drain(pipe):
                self._selector.unregister(pipe)
        if self._child.stdin in events:
            self._write()
        now = time.monotonic()
        if self._killed is None and now >= self._deadline:
            self._killed = "timeout"
        if self._child.ended in events:
            self._finish()
        elif self._killed is not None:
            self._end_at(self._killed)
        elif now >= self._look:
            self._pause = min(2 * self._pause, LAST_LOOK_S)
            self._look = now + self._pause
            if (limit := self._exceeded()) is not None:
                self._end_at(limit)

    def _drain(self, pipe: int) -> bool:
        """Read what there is, up to the limit on output; whether there may be more."""
        room = self._limits.output_bytes - sum(map(len, self._outputs.values()))
        try:
            data = os.read(pipe, min(_CHUNK, room + 1))
        except BlockingIOError:
            return False
        self._outputs[pipe] += data[:room]
        if len(data) > room:
            self._killed = self._killed or "output"
        return 0 < len(data) <= room

    def _write(self) -> None:
        """Write what the pipe takes; then wait for it, or close it if that was all."""
        if self._child.stdin < 0:
            self._input = memoryview(b"")
            return
        try:
            while self._input:
                self._input = self._input[os.write(self._child.stdin, self._input) :]
        except BlockingIOError:
            if self._child.stdin not in self._selector.get_map():
                self._selector.register(self._child.stdin, selectors.EVENT_WRITE)
            return
        except BrokenPipeError:
            self._input, self._closing = memoryview(b""), True
        if self._child.stdin in self._selector.get_map():
            self._selector.unregister(self._child.stdin)
        if self._closing:
            self._close_input_pipe()

    def _close_input_pipe(self) -> None:
        if self._child.stdin >= 0:
            if self._child.stdin in self._selector.get_map():
                self._selector.unregister(self._child.stdin)
            os.close(self._child.stdin)
            self._child.stdin = -1

    def _exceeded(self) -> End | None:
        """The limit that everything together is above."""
        limits, pids = self._limits, self._child.pids()
        if not pids:  # not started yet, or about to end: the scratch folder is not there
            return None
        used = usage(pids)
        if used.threads > limits.processes:
            return "processes"
        if used.cpu_s > limits.cpu_s:
            return "cpu"
        memory = limits.memory_mb * 2**20
        if used.memory > memory and proportional_memory(pids) > memory:
            return "memory"
        return "scratch" if self._child.full() else None

    def _end_at(self, limit: End) -> None:
        self._kill(limit)
        self._wait_for_end()

    def _kill(self, limit: End) -> None:
        self._killed = self._killed or limit
        self._child.kill()

    def _wait_for_end(self) -> None:
        waiter = select.poll()
        waiter.register(self._child.ended, select.POLLIN)
        waiter.poll()
        self._finish()

    def _finish(self) -> None:
        end, code = self._child.finish(self._killed is not None)
        seconds = time.monotonic() - self._start
        for pipe in self._outputs:
            # without waiting for the end of the pipe: somebody else may hold it open
            while self._drain(pipe):
                pass
        out, err = (bytes(self._outputs[pipe]) for pipe in (self._child.stdout, self._child.stderr))
        own = self._killed is None
        self._outcome = Outcome(self._killed or end, code if own else None, out, err, seconds)
        self._input = memoryview(b"")
