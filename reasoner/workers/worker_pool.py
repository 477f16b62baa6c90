"""The workers of a host as processes: forked, heard, killed at the deadline of their call, with all that they started.

What the calls are, and which worker makes which, is for the pools of scoring and of environments.

Why no ready-made process pool: there the workers share one pipe and its locks, so a call that dies or writes at the
wrong moment breaks the calls of others; a worker that leaves with status 0 looks like a hang; grandchildren live on.
Here each worker has its own socket, and a call can only fail itself.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from reasoner.processes.subreaper import children, dead_children, end_children, kill
from reasoner.records import FailureKind
from reasoner.workers import memory_files
from reasoner.workers.confinement import confine
from reasoner.workers.lines import CREATED, MAX_LINE_BYTES, LineBuffer

SWEEP_S = 0.01
"""seconds between looks at processes that were killed and are not gone"""
SEND_S = 5
"""seconds for an idle worker to take a call"""
MAX_PRINTED = 4000
"""bytes of what a call prints that are kept"""
_READ_BYTES, _READS = 2**16, 4
"""of what a worker prints, at a time: one that never stops must not keep the host"""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """A forked worker."""

    pid: int
    channel: socket.socket
    output: int
    """descriptor of what it prints; -1: closed"""
    printed: bytearray = field(default_factory=bytearray)
    """by the current call, cut"""
    lines: LineBuffer = field(default_factory=LineBuffer)
    files: list[bytes] = field(default_factory=list)
    """in /dev/shm, created by the current call"""
    since: float = 0.0
    """monotonic seconds at which the current call began"""
    timeout_s: float = math.inf
    """seconds that it may take; infinite: there is none"""

    @property
    def busy(self) -> bool:
        """Whether it is at a call."""
        return self.timeout_s < math.inf

    @property
    def deadline(self) -> float:
        """When the current call is over, monotonic seconds."""
        return self.since + self.timeout_s

    def begin(self, timeout_s: float) -> None:
        """A call begins."""
        self.since, self.timeout_s = time.monotonic(), timeout_s

    def settle(self) -> None:
        """The call has its outcome."""
        self.timeout_s = math.inf


W = TypeVar("W", bound=WorkerProcess)


class WorkerPool(ABC, Generic[W]):
    """Registers the channels of workers with the host's selector and never waits for one of them.

    `detach` closes the host's own descriptors in a forked worker.
    """

    def __init__(self, selector: selectors.BaseSelector, detach: Callable[[], None]) -> None:
        self._selector, self._detach = selector, detach
        self._workers: dict[int, W] = {}
        """by process id"""
        self._files: dict[int, list[bytes]] = {}
        """by process id of a worker that was ended: what is to be removed once it is dead"""
        self._strays = False
        """something may be alive below the host that is not a worker"""

    @abstractmethod
    def submit(self, line: bytes) -> None:
        """Take a line of the main process: a call, or what the pool makes of it."""

    @abstractmethod
    def cancel(self) -> None:
        """Forget every call and end the workers that are at one."""

    @abstractmethod
    def _hand_out(self) -> None:
        """Give calls to idle workers."""

    @abstractmethod
    def _take(self, worker: W, line: bytes) -> None:
        """A line of a worker."""

    @abstractmethod
    def _fail(self, worker: W, kind: FailureKind, message: str) -> None:
        """The current call has failed: record it and end the worker."""

    def close(self) -> None:
        """End all workers, everything that they started, and what they have in /dev/shm."""
        self.cancel()
        end_children()
        for files in self._files.values():
            memory_files.remove(files)
        for worker in self._workers.values():
            memory_files.remove(worker.files)

    def patience(self) -> float:
        """Seconds until the next deadline; infinite when there is none."""
        if self._strays:
            return SWEEP_S
        now = time.monotonic()
        return min((worker.deadline - now for worker in self._busy()), default=math.inf)

    def turn(self) -> None:
        """Fail the calls whose deadline has passed, kill what they started, hand calls to idle workers."""
        for worker in self._busy():
            self._expire(worker)
        if self._strays:
            self.reap()
        self._hand_out()

    def reap(self) -> None:
        """Settle the calls of workers that died; end whatever they left behind."""
        for pid, status in dead_children():
            if worker := self._workers.get(pid):
                self._bury(worker, status)
            memory_files.remove(self._files.pop(pid, ()))
        strays = children(os.getpid()) - self._workers.keys()
        for stray in strays:
            kill(stray)
        self._strays = bool(strays)

    def _busy(self) -> list[W]:
        return [worker for worker in self._workers.values() if worker.busy]

    def _fork(
        self,
        memory_mb: int | None,
        serve: Callable[[socket.socket], None],
        adopt: Callable[[int, socket.socket, int], W],
    ) -> W:
        """A new worker that serves on its channel; `adopt` makes its record of process id, channel and output.

        Raises:
            OSError: there are too many open files or processes; nothing of it is left.
        """
        with ExitStack() as opened:
            host_end, worker_end = (opened.enter_context(end) for end in socket.socketpair())
            reading, writing = os.pipe()
            opened.callback(os.close, reading)
            opened.callback(os.close, writing)
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            opened.pop_all()
        if pid == 0:
            self._become_worker(memory_mb, serve, (host_end, worker_end), (reading, writing))
        worker_end.close()
        os.close(writing)
        os.set_blocking(reading, False)
        host_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
        worker = self._workers[pid] = adopt(pid, host_end, reading)
        self._selector.register(host_end, selectors.EVENT_READ, lambda: self._read(worker))
        self._selector.register(reading, selectors.EVENT_READ, lambda: self._drain(worker))
        return worker

    def _become_worker(
        self,
        memory_mb: int | None,
        serve: Callable[[socket.socket], None],
        channels: tuple[socket.socket, socket.socket],
        output: tuple[int, int],
    ) -> None:
        host_end, worker_end = channels
        reading, writing = output
        try:
            confine(memory_mb, writing)
            self._detach()
            for channel in (host_end, *(worker.channel for worker in self._workers.values())):
                channel.close()
            for other in (reading, *(worker.output for worker in self._workers.values() if worker.output >= 0)):
                os.close(other)
            serve(worker_end)
        finally:
            os._exit(1)  # never back into the host's loop, nor through its exit handlers

    def _send(self, worker: W, line: bytes) -> None:
        """Hand over a call that has begun."""
        self._drain(worker)
        worker.printed.clear()
        try:
            worker.channel.sendall(line)
        except OSError as error:
            self._fail(worker, "crash", f"the worker did not take the call: {error}")

    def _read(self, worker: W) -> None:
        """Take what the worker has sent. Data that is not its result, and a closed channel, end it."""
        while worker.channel.fileno() >= 0:
            try:
                data = worker.channel.recv(2**16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._hung_up(worker)
                return
            for line in worker.lines.feed(data):
                if line.startswith(CREATED):
                    worker.files.append(line.removeprefix(CREATED))
                else:
                    self._take(worker, line)
            if worker.lines.pending > MAX_LINE_BYTES:
                self._garbled(worker)

    def _drain(self, worker: W) -> None:
        """Take what the worker has printed; what is more than is kept goes nowhere."""
        for _ in range(_READS if worker.output >= 0 else 0):
            try:
                data = os.read(worker.output, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_output(worker)
                return
            worker.printed += data[: MAX_PRINTED - len(worker.printed)]

    def _printed(self, worker: W) -> str:
        """What the current call has printed, once."""
        self._drain(worker)
        text = worker.printed.decode(errors="replace")
        worker.printed.clear()
        return text

    def _hung_up(self, worker: W) -> None:
        """It died, or closed its channel. When it was at work, `reap` learns how it died and settles its call."""
        if not worker.busy:
            self._end(worker)
        else:
            self._close(worker)
            kill(worker.pid)

    def _bury(self, worker: W, status: int) -> None:
        """It died by itself."""
        self._read(worker)
        if worker.busy:
            self._fail(worker, "crash", f"the worker died during the call: {_exit_text(status)}")
        elif worker.pid in self._workers:
            self._end(worker)

    def _garbled(self, worker: W) -> None:
        """Something other than a result came from a worker: it cannot be trusted any more."""
        if worker.busy:
            self._fail(worker, "crash", "the call wrote to the channel between worker and host")
        elif worker.pid in self._workers:
            self._end(worker)

    def _expire(self, worker: W) -> None:
        if worker.busy and time.monotonic() >= worker.deadline:
            self._read(worker)  # a result that arrived while the host was busy is in time
        if worker.busy and time.monotonic() >= worker.deadline:
            self._fail(
                worker,
                "timeout",
                f"no result after {worker.timeout_s:g} s; the call and all it started were killed",
            )

    def _end(self, worker: W) -> None:
        del self._workers[worker.pid]
        self._files[worker.pid] = worker.files
        self._close(worker)
        self._close_output(worker)
        kill(worker.pid)
        self._strays = True

    def _close(self, worker: W) -> None:
        if worker.channel.fileno() >= 0:
            self._selector.unregister(worker.channel)
            worker.channel.close()

    def _close_output(self, worker: W) -> None:
        if worker.output >= 0:
            self._selector.unregister(worker.output)
            os.close(worker.output)
            worker.output = -1


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit status {code}."
    name = signal.Signals(-code).name
    if code == -signal.SIGKILL:
        return f"{name} (no memory left on the machine, or the call killed its own worker or closed its channel)."
    return f"{name}."
