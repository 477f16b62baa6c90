"""The workers of the scoring host: given one task at a time, killed at the deadline of a call, replaced.

They come in lanes: sources without workers of their own share one, any other has its own workers and its own queue, so
that neither waits for the other.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasoner.config import ScoringConfig
from reasoner.records import FailureKind
from reasoner.scoring.workers.protocol import CallResult, dump_printed, dump_result, load_result
from reasoner.scoring.workers.worker import ConfiguredSource, serve
from reasoner.workers.worker_pool import WorkerPool, WorkerProcess


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


@dataclass(slots=True, eq=False, kw_only=True)
class _ScoringWorker(WorkerProcess):
    lane: _Lane
    task: ScoringTask | None = None
    answered: tuple[int, int] = (-1, -1)
    """task and reward of its last result"""


class ScoringPool(WorkerPool[_ScoringWorker]):
    """Keeps the workers busy. `emit` takes the result lines."""

    def __init__(
        self,
        jobs: Sequence[ConfiguredSource],
        scoring: ScoringConfig,
        selector: selectors.BaseSelector,
        emit: Callable[[bytes], None],
        detach: Callable[[], None],
    ) -> None:
        super().__init__(selector, detach)
        self._jobs, self._emit = jobs, emit
        self._lanes = {job.lane: _lane(job, scoring) for job in jobs}

    def submit(self, line: bytes) -> None:
        """Queue the task of a line."""
        id_, rewards, payload = line.split(b" ", 2)
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

    def _hand_out(self) -> None:
        for lane in self._lanes.values():
            while lane.queue:
                try:
                    worker = self._idle(lane)
                except OSError as error:
                    self._not_started(lane, error)
                    continue
                if worker is None:
                    break
                self._dispatch(worker, lane.queue.popleft())

    def _not_started(self, lane: _Lane, error: OSError) -> None:
        """The next call of a lane fails: it has no worker, and none can be started."""
        task = lane.queue[0]
        why = f"its worker could not be started: {error}; lower scoring.workers, or raise `ulimit -n`"
        self._emit(dump_result(CallResult(int(task.id), task.rewards.popleft(), 0.0, kind="crash", message=why)))
        if not task.rewards:
            lane.queue.popleft()

    def _dispatch(self, worker: _ScoringWorker, task: ScoringTask) -> None:
        worker.task = task
        worker.begin(self._jobs[task.rewards[0]].timeout_s)
        rewards = ",".join(map(str, task.rewards)).encode()
        self._send(worker, b"%b %b %b\n" % (task.id, rewards, task.payload))

    def _idle(self, lane: _Lane) -> _ScoringWorker | None:
        """A worker that has no call; None: they are all at one.

        Raises:
            OSError: the lane has none, and none can be started.
        """
        own = [worker for worker in self._workers.values() if worker.lane is lane]
        for worker in own:
            if worker.task is None:
                return worker
        if len(own) >= lane.limit:
            return None
        try:
            return self._fork(
                lane.memory_mb,
                lambda channel: serve(channel, self._jobs),
                lambda pid, channel, output: _ScoringWorker(pid, channel, output, lane=lane),
            )
        except OSError:
            if own:  # those that there are take what waits
                return None
            raise

    def _take(self, worker: _ScoringWorker, line: bytes) -> None:
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

    def _tell_printed(self, worker: _ScoringWorker) -> None:
        """The current call is about to have its outcome: what it printed goes first."""
        assert worker.task is not None
        if text := self._printed(worker):
            self._emit(dump_printed(int(worker.task.id), worker.task.rewards[0], text))

    def _repeated(self, worker: _ScoringWorker) -> None:
        """It answers a second time, so the first answer was the doing of that call; the one it has now is innocent."""
        if worker.pid in self._workers:
            self._requeue(worker)
            self._end(worker)

    def _settle(self, worker: _ScoringWorker) -> None:
        """The current call has its outcome; the next one of the task begins now."""
        assert worker.task is not None
        worker.task.rewards.popleft()
        if worker.task.rewards:
            worker.begin(self._jobs[worker.task.rewards[0]].timeout_s)
        else:
            worker.task = None
            worker.settle()

    def _requeue(self, worker: _ScoringWorker) -> None:
        """What is left of the worker's task goes to the next one."""
        if worker.task is not None:
            worker.lane.queue.appendleft(worker.task)
            worker.task = None
            worker.settle()

    def _fail(self, worker: _ScoringWorker, kind: FailureKind, message: str) -> None:
        """Record the current call as failed, end the worker, keep the rest of its task."""
        task = worker.task
        assert task is not None
        seconds = time.monotonic() - worker.since
        self._tell_printed(worker)
        self._emit(dump_result(CallResult(int(task.id), task.rewards[0], seconds, kind=kind, message=message)))
        self._settle(worker)
        self._requeue(worker)
        self._end(worker)


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
