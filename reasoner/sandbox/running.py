"""A program that runs: its pipes are served, its limits watched, and at its end nothing of it is left.

This is the part that all local sandboxes share; they differ in how the program is started (`Child`).
"""

from __future__ import annotations

import math
import os
import select
import selectors
import time
from contextlib import suppress
from typing import Protocol

from reasoner.sandbox.base import End, Limits, Outcome, SandboxError
from reasoner.sandbox.pipes import Pipes
from reasoner.sandbox.usage import buffered, proportional_memory, usage

FIRST_LOOK_S = 0.03
"""seconds before the first look at what the program uses; doubled up to `LAST_LOOK_S`"""
LAST_LOOK_S = 0.2
LAST_BREATH_S = 30.0
"""seconds for a program that was killed to be gone"""
_CHUNK = 2**16


class Child(Protocol):
    """A started program, as a backend hands it over."""

    pipes: Pipes
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


class Running:
    """Moves bytes between the program and its caller until it ends by itself or at a limit.

    It waits for pipes and the end of the program in one place, `_turn`, and looks at deadline and usage there.
    """

    def __init__(self, child: Child, limits: Limits) -> None:
        self._child, self._pipes, self._limits = child, child.pipes, limits
        self._start = time.monotonic()
        self._deadline = self._start + limits.wall_s
        self._pause = FIRST_LOOK_S
        self._look = self._start + self._pause
        self._input = memoryview(b"")
        self._closing = False
        self._outputs = {pipe: bytearray() for pipe in self._pipes.outputs}
        self._read = 0
        self._killed: End | None = None
        self._outcome: Outcome | None = None
        self._failed = False
        self._selector = selectors.DefaultSelector()
        for pipe in (self._pipes.stdin, *self._outputs):
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

    def receive_line(self, timeout_s: float = math.inf) -> bytes | None:
        output = self._outputs[self._pipes.stdout]
        searched = self._read
        deadline = time.monotonic() + timeout_s
        while True:
            end = output.find(b"\n", searched) + 1
            if end or self._outcome is not None:
                line = bytes(output[self._read : end or len(output)])
                self._read += len(line)
                return line or None
            searched = len(output)
            self._turn(deadline)
            if time.monotonic() >= deadline and self._outcome is None and output.find(b"\n", searched) < 0:
                self._end_at("answer")

    def forget(self) -> None:
        del self._outputs[self._pipes.stdout][: self._read]
        self._outputs[self._pipes.stderr].clear()
        self._read = 0

    def outcome(self) -> Outcome:
        self.close_input()
        while self._outcome is None:
            self._turn()
        return self._outcome

    def kill(self) -> None:
        """Kill it, whatever it does; may be called from any thread, at any time before `stop` returns."""
        self._child.kill()

    def stop(self) -> None:
        """Kill it if it is still there."""
        with self._selector:
            if self._outcome is None and not self._failed:
                self._end_at("timeout")

    def _turn(self, until: float = math.inf) -> None:
        """Wait for the next thing to happen, but not longer than to this moment, and deal with it."""
        patience = max(0.0, min(self._deadline, self._look, until) - time.monotonic())
        events = {key.fd for key, _ in self._selector.select(patience)}
        for pipe in events & self._outputs.keys():
            with suppress(BlockingIOError):
                if not self._drain(pipe):
                    self._selector.unregister(pipe)
        if self._pipes.stdin in events:
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
        data = os.read(pipe, min(_CHUNK, room + 1))
        self._outputs[pipe] += data[:room]
        if len(data) > room:
            self._killed = self._killed or "output"
        return 0 < len(data) <= room

    def _write(self) -> None:
        """Write what the pipe takes; then wait for it, or close it if that was all."""
        pipe = self._pipes.stdin
        if pipe < 0:
            self._input = memoryview(b"")
            return
        try:
            while self._input:
                self._input = self._input[os.write(pipe, self._input) :]
        except BlockingIOError:
            if pipe not in self._selector.get_map():
                self._selector.register(pipe, selectors.EVENT_WRITE)
            return
        except BrokenPipeError:
            self._closing = True
        self._input = memoryview(b"")
        if pipe in self._selector.get_map():
            self._selector.unregister(pipe)
        if self._closing:
            self._pipes.close_input()

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
        memory = limits.memory_mb * 2**20 - buffered(pids)
        if used.memory > memory and proportional_memory(pids) > memory:
            return "memory"
        return "scratch" if self._child.full() else None

    def _end_at(self, limit: End) -> None:
        self._killed = self._killed or limit
        self._child.kill()
        waiter = select.poll()
        waiter.register(self._child.ended, select.POLLIN)
        if not waiter.poll(LAST_BREATH_S * 1000):
            self._failed = True
            raise SandboxError(f"a program could not be killed within {LAST_BREATH_S:g} seconds")
        self._finish()

    def _finish(self) -> None:
        self._failed = True
        try:
            end, code = self._child.finish(self._killed is not None)
        except SandboxError as error:
            raise SandboxError(f"{error}; its output: {self._rest()[1].decode(errors='replace').strip()}") from error
        seconds = time.monotonic() - self._start
        out, err = self._rest()
        own = self._killed is None
        self._outcome = Outcome(self._killed or end, code if own else None, out, err, seconds)
        self._failed = False
        self._input = memoryview(b"")

    def _rest(self) -> tuple[bytes, bytes]:
        """All of both outputs, without waiting for the end of the pipes: somebody else may hold them open."""
        for pipe in self._outputs:
            with suppress(BlockingIOError):
                while self._drain(pipe):
                    pass
        out, err = map(bytes, self._outputs.values())
        return out, err
