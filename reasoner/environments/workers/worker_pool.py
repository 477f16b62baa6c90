"""The workers of the environment host: some share all calls that keep no state, others belong to a seat until its end.

At most `environment.workers` calls run at a time, whoever makes them; the workers of seats wait meanwhile and cost no
time. What a seat has in its worker is lost with it: the call that killed it has failed, and the seat is dead.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from reasoner.config import EnvironmentConfig
from reasoner.environments.choose import ConfiguredEnvironment
from reasoner.environments.workers.protocol import (
    CALL,
    DROP,
    SHARED,
    CallOutcome,
    dump_call_output,
    dump_outcome,
    load_outcome,
)
from reasoner.environments.workers.worker import serve
from reasoner.records import FailureKind
from reasoner.workers.worker_pool import WorkerPool, WorkerProcess


@dataclass(frozen=True, slots=True)
class _Call:
    id: int
    seat: int
    timeout_s: float
    payload: bytes


@dataclass(slots=True, eq=False, kw_only=True)
class _SessionWorker(WorkerProcess):
    seat: int
    call: _Call | None = None


class SessionPool(WorkerPool[_SessionWorker]):
    """Gives calls to workers in the order in which they came. `emit` takes lines for the main process."""

    def __init__(
        self,
        chosen: ConfiguredEnvironment,
        config: EnvironmentConfig,
        selector: selectors.BaseSelector,
        emit: Callable[[bytes], None],
        detach: Callable[[], None],
    ) -> None:
        super().__init__(selector, detach)
        self._chosen, self._config, self._emit = chosen, config, emit
        self._queue: deque[_Call] = deque()
        self._seats: dict[int, _SessionWorker | None] = {}
        """worker of each seat that had one; None: it is dead"""

    def submit(self, line: bytes) -> None:
        """Queue a call, or end a call or a seat."""
        word, rest = line.split(b" ", 1)
        if word == CALL:
            call, seat, timeout_s, payload = rest.split(b" ", 3)
            self._queue.append(_Call(int(call), int(seat), float(timeout_s), payload))
        elif word == DROP:
            self._drop(lambda call: call.id == int(rest))
        else:
            self._leave(int(rest))

    def cancel(self) -> None:
        """Forget every call, end every seat and the workers that are at a call."""
        self._queue.clear()
        for worker in [*self._workers.values()]:
            if worker.busy or worker.seat != SHARED:
                self._give_up(worker)
        self._seats.clear()

    def _leave(self, seat: int) -> None:
        self._drop(lambda call: call.seat == seat)
        worker = self._seats.pop(seat, None)
        if worker is not None and worker.pid in self._workers:
            self._give_up(worker)

    def _drop(self, unwanted: Callable[[_Call], bool]) -> None:
        """Nobody waits for these calls: one that runs is ended with its worker."""
        self._queue = deque(call for call in self._queue if not unwanted(call))
        for worker in self._busy():
            if worker.call is not None and unwanted(worker.call):
                self._give_up(worker)

    def _give_up(self, worker: _SessionWorker) -> None:
        self._read(worker)  # it says what is to be removed
        if worker.pid in self._workers:
            worker.call = None
            worker.settle()
            self._end(worker)

    def _end(self, worker: _SessionWorker) -> None:
        if worker.seat in self._seats:
            self._seats[worker.seat] = None
        super()._end(worker)

    def _hand_out(self) -> None:
        running = len(self._busy())
        while self._queue and running < self._config.workers:
            call = self._queue.popleft()
            try:
                worker = self._worker_of(call)
                why = "the worker that kept its state has died in an earlier call"
            except OSError as error:
                worker = None
                why = f"its worker could not be started: {error}; lower environment.sessions, or raise `ulimit -n`"
            if worker is None:
                self._emit(dump_outcome(CallOutcome(call.id, 0.0, kind="crash", message=why)))
                continue
            worker.call = call
            worker.begin(call.timeout_s)
            self._send(worker, b"%d %b\n" % (call.id, call.payload))
            running = len(self._busy())

    def _worker_of(self, call: _Call) -> _SessionWorker | None:
        """Its seat's worker, None if that has died; or a shared one that is idle: there is one for each running
        call."""
        if call.seat != SHARED:
            if call.seat not in self._seats:
                self._seats[call.seat] = self._new(call.seat)
            return self._seats[call.seat]
        idle = (worker for worker in self._workers.values() if worker.seat == SHARED and not worker.busy)
        return next(idle, None) or self._new(SHARED)

    def _new(self, seat: int) -> _SessionWorker:
        return self._fork(
            self._config.memory_mb,
            lambda channel: serve(channel, self._chosen, self._config, keeps=seat != SHARED),
            lambda pid, channel, output: _SessionWorker(pid, channel, output, seat=seat),
        )

    def _take(self, worker: _SessionWorker, line: bytes) -> None:
        outcome = _outcome(line)
        if outcome is None or worker.call is None or outcome.call != worker.call.id:
            self._garbled(worker)
            return
        self._tell_printed(worker)
        self._emit(line + b"\n")
        worker.call = None
        worker.settle()
        if outcome.last:
            self._end(worker)
        elif worker.seat == SHARED:
            worker.files.clear()

    def _tell_printed(self, worker: _SessionWorker) -> None:
        """The current call is about to have its outcome: what it printed goes first."""
        assert worker.call is not None
        if text := self._printed(worker):
            self._emit(dump_call_output(worker.call.id, text))

    def _fail(self, worker: _SessionWorker, kind: FailureKind, message: str) -> None:
        assert worker.call is not None
        seconds = time.monotonic() - worker.since
        self._tell_printed(worker)
        self._emit(dump_outcome(CallOutcome(worker.call.id, seconds, kind=kind, message=message)))
        worker.call = None
        worker.settle()
        self._end(worker)


def _outcome(line: bytes) -> CallOutcome | None:
    """None: the line is anything else."""
    try:
        return load_outcome(line)
    except ValueError:
        return None
