"""The workers of the scoring host: forked, given one task at a time, killed at the deadline, replaced.

They come in lanes: sources without workers of their own share one, any other has its own workers and its own queue, so
that neither waits for the other.

Why no ready-made process pool: there the workers share one pipe and its locks, so a call that dies or writes at the
wrong moment breaks the calls of others; a worker that leaves with status 0 looks like a hang; grandchildren live on.
Here each worker has its own socket, and a call can only fail itself.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasoner.config import ScoringConfig
from reasoner.processes.subreaper import children, dead_children, end_children, kill
from reasoner.records import FailureKind
from reasoner.scoring.workers import memory_files
from reasoner.scoring.workers.protocol import (
    CREATED,
    MAX_LINE_BYTES,
    CallResult,
    LineBuffer,
    dump_printed,
    dump_result,
    load_result,
)
from reasoner.scoring.workers.worker import ConfiguredSource, confine, serve

SWEEP_S = 0.01
"""seconds between looks at processes that were killed and are not gone"""
SEND_S = 5
"""seconds for an idle worker to take a call"""
MAX_PRINTED = 4000
"""bytes of what a call prints that are kept"""
_READ_BYTES, _READS = 2**16, 4
"""of what a worker prints, at a time: one that never stops must not keep the host"""


@dataclass(slots=True)
class ScoringTask:
    """`rewards` are the calls that have no outcome yet, the first one is running or next."""

    id: bytes
    payload: bytes
    rewards: deque[int]


@dataclass(slots=True, eq=False)
class _Lane:
    limit: int
    """workers at most"""
    memory_mb: int | None
    """address space of a worker; None: no limit"""
    queue: deque[ScoringTask] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Worker:
    pid: int
    channel: socket.socket
    lane: _Lane
    output: int
    """descriptor of what it prints; -1: closed"""
    printed: bytearray = field(default_factory=bytearray)
    """by the current call, cut"""
    lines: LineBuffer = field(default_factory=LineBuffer)
    task: ScoringTask | None = None
    since: float = 0.0
    """monotonic seconds at which the current call began"""
    answered: tuple[int, int] = (-1, -1)
    """task and reward of its last result"""
    files: list[bytes] = field(default_factory=list)
    """in /dev/shm, created by the current call"""


class Pool:
    """Keeps the workers busy. It registers their channels with the host's selector and never waits for one of them.

    `emit` takes the result lines; `detach` closes the host's own descriptors in a forked worker.
    """

    def __init__(
        self,
        jobs: Sequence[ConfiguredSource],
        scoring: ScoringConfig,
        selector: selectors.BaseSelector,
        emit: Callable[[bytes], None],
        detach: Callable[[], None],
    ) -> None:
        self._jobs, self._selector = jobs, selector
        self._emit, self._detach = emit, detach
        self._lanes = {job.lane: _lane(job, scoring) for job in jobs}
        self._workers: dict[int, _Worker] = {}
        self._files: dict[int, list[bytes]] = {}
        """by process id of a worker that was ended: what is to be removed once it is dead"""
        self._strays = False
        """something may be alive below the host that is not a worker"""

    def submit(self, id_: bytes, rewards: bytes, payload: bytes) -> None:
        """Queue one task."""
        calls = deque(map(int, rewards.split(b",")))
        self._lanes[self._jobs[calls[0]].lane].queue.append(ScoringTask(id_, payload, calls))

    def cancel(self) -> None:
        """Forget every task and end the workers that are at one."""
        for worker in self._busy():
            self._read(worker)  # it says what is to be removed
        for lane in self._lanes.values():
            lane.queue.clear()
        for worker in self._busy():
            worker.task = None
            self._end(worker)

    def close(self) -> None:
        """End all workers, everything that they started, and what they have in /dev/shm."""
        self.cancel()
        end_children()
        for files in self._files.values():
            memory_files.remove(files)

    def patience(self) -> float:
        """Seconds until the next deadline; infinite when there is none."""
        if self._strays:
            return SWEEP_S
        now = time.monotonic()
        return min(
            (self._deadline(worker) - now for worker in self._workers.values() if worker.task), default=float("inf")
        )

    def turn(self) -> None:
        """Fail the calls whose deadline has passed, kill what they started, hand tasks to idle workers."""
        for worker in self._busy():
            self._expire(worker)
        if self._strays:
            self.reap()
        for lane in self._lanes.values():
            while lane.queue and (worker_ := self._idle(lane)) is not None:
                self._dispatch(worker_, lane.queue.popleft())

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

    def _bury(self, worker: _Worker, status: int) -> None:
        """It died by itself."""
        self._read(worker)
        if worker.task is not None:
            self._fail(worker, "crash", f"the worker died during the call: {_exit_text(status)}")
        elif worker.pid in self._workers:
            self._end(worker)

    def _dispatch(self, worker: _Worker, task: ScoringTask) -> None:
        self._drain(worker)
        worker.printed.clear()
        worker.task, worker.since = task, time.monotonic()
        rewards = ",".join(map(str, task.rewards)).encode()
        try:
            worker.channel.sendall(b"%b %b %b\n" % (task.id, rewards, task.payload))
        except OSError as error:
            self._fail(worker, "crash", f"the worker did not take the call: {error}")

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.task is not None]

    def _idle(self, lane: _Lane) -> _Worker | None:
        own = [worker for worker in self._workers.values() if worker.lane is lane]
        for worker in own:
            if worker.task is None:
                return worker
        return self._fork(lane) if len(own) < lane.limit else None

    def _fork(self, lane: _Lane) -> _Worker:
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become_worker(lane, ours, theirs, reading, writing)
        theirs.close()
        os.close(writing)
        os.set_blocking(reading, False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
        worker = self._workers[pid] = _Worker(pid, ours, lane, reading)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._read(worker))
        self._selector.register(reading, selectors.EVENT_READ, lambda: self._drain(worker))
        return worker

    def _become_worker(
        self, lane: _Lane, ours: socket.socket, theirs: socket.socket, reading: int, writing: int
    ) -> None:
        try:
            confine(lane.memory_mb, writing)
            self._detach()
            for channel in (ours, *(worker.channel for worker in self._workers.values())):
                channel.close()
            for output in (reading, *(worker.output for worker in self._workers.values() if worker.output >= 0)):
                os.close(output)
            serve(theirs, self._jobs)
        finally:
            os._exit(1)  # never back into the host's loop, nor through its exit handlers

    def _read(self, worker: _Worker) -> None:
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
                self._take(worker, line)
            if worker.lines.pending > MAX_LINE_BYTES:
                self._garbled(worker)

    def _drain(self, worker: _Worker) -> None:
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

    def _tell_printed(self, worker: _Worker) -> None:
        """The current call is about to have its outcome: what it printed goes first."""
        assert worker.task is not None
        self._drain(worker)
        if worker.printed:
            text = worker.printed.decode(errors="replace")
            self._emit(dump_printed(int(worker.task.id), worker.task.rewards[0], text))
            worker.printed.clear()

    def _hung_up(self, worker: _Worker) -> None:
        """It died, or closed its channel. When it was at work, `reap` learns how it died and settles its call."""
        if worker.task is None:
            self._end(worker)
        else:
            self._close(worker)
            kill(worker.pid)

    def _take(self, worker: _Worker, line: bytes) -> None:
        if line.startswith(CREATED):
            worker.files.append(line.removeprefix(CREATED))
            return
        result = _result(line)
        if result is None or not _answers(result, worker.task):
            if result is not None and (result.task, result.reward) == worker.answered:
                self._repeated(worker)
            else:
                self._garbled(worker)
            return
        worker.answered = (result.task, result.reward)
        self._tell_printed(worker)
        self._emit(line + b"\n")
        self._settle(worker)
        if not result.last:
            worker.files.clear()
        else:
            self._requeue(worker)
            self._end(worker)

    def _garbled(self, worker: _Worker) -> None:
        """Something other than a result came from a worker: it cannot be trusted any more."""
        if worker.task is not None:
            self._fail(worker, "crash", "the call wrote to the channel between worker and host")
        elif worker.pid in self._workers:
            self._end(worker)

    def _repeated(self, worker: _Worker) -> None:
        """It answers a second time, so the first answer was the doing of that call; the one it has now is innocent."""
        if worker.pid in self._workers:
            self._requeue(worker)
            self._end(worker)

    def _settle(self, worker: _Worker) -> None:
        """The current call has its outcome; the next one of the task begins now."""
        assert worker.task is not None
        worker.task.rewards.popleft()
        worker.since = time.monotonic()
        if not worker.task.rewards:
            worker.task = None

    def _requeue(self, worker: _Worker) -> None:
        """What is left of the worker's task goes to the next one."""
        if worker.task is not None:
            worker.lane.queue.appendleft(worker.task)
            worker.task = None

    def _fail(self, worker: _Worker, kind: FailureKind, message: str) -> None:
        """Record the current call as failed, end the worker, keep the rest of its task."""
        task = worker.task
        assert task is not None
        seconds = time.monotonic() - worker.since
        self._tell_printed(worker)
        self._emit(dump_result(CallResult(int(task.id), task.rewards[0], seconds, kind=kind, message=message)))
        self._settle(worker)
        self._requeue(worker)
        self._end(worker)

    def _expire(self, worker: _Worker) -> None:
        if worker.task is not None and time.monotonic() >= self._deadline(worker):
            self._read(worker)  # a result that arrived while the host was busy is in time
        if worker.task is not None and time.monotonic() >= self._deadline(worker):
            timeout_s = self._jobs[worker.task.rewards[0]].timeout_s
            self._fail(worker, "timeout", f"no result after {timeout_s:g} s; the call and all it started were killed")

    def _deadline(self, worker: _Worker) -> float:
        assert worker.task is not None
        return worker.since + self._jobs[worker.task.rewards[0]].timeout_s

    def _end(self, worker: _Worker) -> None:
        del self._workers[worker.pid]
        self._files[worker.pid] = worker.files
        self._close(worker)
        self._close_output(worker)
        kill(worker.pid)
        self._strays = True

    def _close(self, worker: _Worker) -> None:
        if worker.channel.fileno() >= 0:
            self._selector.unregister(worker.channel)
            worker.channel.close()

    def _close_output(self, worker: _Worker) -> None:
        if worker.output >= 0:
            self._selector.unregister(worker.output)
            os.close(worker.output)
            worker.output = -1


def _lane(job: ConfiguredSource, scoring: ScoringConfig) -> _Lane:
    memory_mb = scoring.memory_mb if job.source.limit_memory else None
    return _Lane(job.source.workers or scoring.workers, memory_mb)


def _result(line: bytes) -> CallResult | None:
    """None: the line is anything else."""
    try:
        return load_result(line)
    except ValueError:
        return None


def _answers(result: CallResult, task: ScoringTask | None) -> bool:
    """Whether it is the result of the task's current call."""
    return task is not None and (result.task, result.reward) == (int(task.id), task.rewards[0])


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit status {code}."
    name = signal.Signals(-code).name
    if code == -signal.SIGKILL:
        return f"{name} (no memory left on the machine, or the call killed its own worker or closed its channel)."
    return f"{name}."
