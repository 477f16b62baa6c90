"""The scoring host: a small process between the pipeline and the workers, started once per run by `ScoringService`.

It imports the plugins once and forks workers from itself, hands each worker one call at a time, and kills a worker with
everything it started when the call's deadline has passed. It is single-threaded and never waits for a worker. Host and
workers are subreapers, so no orphan leaves the tree. It ends, and everything below it with it, when the main process
says so, closes the pipe or dies.

Why no ready-made process pool: there the workers share one pipe and its locks, so a call that dies or writes at the
wrong moment breaks the calls of others; a worker that leaves with status 0 looks like a hang; grandchildren live on.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reasoner.errors import ConfigError, UserError
from reasoner.plugins import build_manager, reward_sources
from reasoner.records import FailureKind
from reasoner.rewards_api import RewardSource
from reasoner.scoring.compose import MAX_RESULT_BYTES, check_rewards
from reasoner.scoring.reaping import become_subreaper, children, dead_children, end_children, end_tree
from reasoner.scoring.wire import (
    CANCEL,
    CLOSE,
    LineBuffer,
    Plan,
    Result,
    dump_message,
    dump_result,
    load_plan,
    load_result,
)
from reasoner.scoring.worker import Job, confine, serve

START_S = 120
"""seconds for importing and preparing all plugins"""
PATIENCE_S = 1.0
"""seconds after which the host looks whether the main process is still there"""
SEND_S = 5
"""seconds for an idle worker to take a call"""


@dataclass(slots=True)
class _Task:
    """One response; `rewards` are the calls that have no outcome yet, the first one is running or next."""

    id: bytes
    payload: bytes
    rewards: deque[int]


@dataclass(slots=True, eq=False)
class _Worker:
    pid: int
    channel: socket.socket
    lines: LineBuffer = field(default_factory=LineBuffer)
    task: _Task | None = None
    since: float = 0.0
    """monotonic seconds at which the current call began"""


class Host:
    """The event loop: tasks in, results out, deadlines in between."""

    def __init__(self, plan: Plan, jobs: Sequence[Job], inbox: int, outbox: int) -> None:
        self._plan, self._jobs = plan, jobs
        self._inbox, self._outbox = inbox, outbox
        self._incoming = LineBuffer()
        self._queue: deque[_Task] = deque()
        self._workers: dict[int, _Worker] = {}
        self._results: list[bytes] = []
        self._open = True
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._child_died = socket.socketpair()

    def run(self) -> None:
        """Serve until the main process closes the pipe or is gone."""
        for end in (self._wakeup, self._child_died):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._child_died.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._reap)
        self._selector.register(self._inbox, selectors.EVENT_READ, self._receive)
        self._send(dump_message({"ready": True}))
        while self._open and os.getppid() == self._plan.parent:
            for key, _ in self._selector.select(self._patience()):
                handle: Callable[[], None] = key.data
                handle()
            self._expire()
            self._dispatch()
            self._flush()

    def _patience(self) -> float:
        deadlines = [self._deadline(worker) for worker in self._workers.values() if worker.task is not None]
        return max(0.0, min([PATIENCE_S, *(deadline - time.monotonic() for deadline in deadlines)]))

    def _deadline(self, worker: _Worker) -> float:
        assert worker.task is not None
        return worker.since + self._jobs[worker.task.rewards[0]].timeout_s

    def _receive(self) -> None:
        data = os.read(self._inbox, 2**20)
        self._open = bool(data)
        for line in self._incoming.feed(data):
            if line == CANCEL:
                self._cancel()
            elif line == CLOSE:
                self._open = False
            else:
                task, payload = line.split(b" ", 1)
                self._queue.append(_Task(task, payload, deque(range(len(self._jobs)))))

    def _cancel(self) -> None:
        self._queue.clear()
        for worker in [worker for worker in self._workers.values() if worker.task is not None]:
            worker.task = None
            self._end(worker)

    def _dispatch(self) -> None:
        while self._queue and (worker := self._idle()) is not None:
            task = worker.task = self._queue.popleft()
            rewards = ",".join(map(str, task.rewards)).encode()
            worker.since = time.monotonic()
            try:
                worker.channel.sendall(b"%b %b %b\n" % (task.id, rewards, task.payload))
            except OSError as error:
                self._fail(worker, "crash", f"the worker did not take the call: {error}")

    def _idle(self) -> _Worker | None:
        for worker in self._workers.values():
            if worker.task is None:
                return worker
        return self._fork() if len(self._workers) < self._plan.scoring.workers else None

    def _fork(self) -> _Worker:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become_worker(ours, theirs)
        theirs.close()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
        worker = self._workers[pid] = _Worker(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._read(worker))
        return worker

    def _become_worker(self, ours: socket.socket, theirs: socket.socket) -> None:
        try:
            confine(self._plan.scoring.memory_mb)
            self._selector.close()
            for end in (ours, self._wakeup, self._child_died, *(worker.channel for worker in self._workers.values())):
                end.close()
            for descriptor in (self._inbox, self._outbox):
                os.close(descriptor)
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
            if worker.lines.pending > 2 * MAX_RESULT_BYTES:
                self._garbled(worker)

    def _hung_up(self, worker: _Worker) -> None:
        """It died, or closed its channel. When it was at work, `_reap` learns how it died and settles its call."""
        if worker.task is None:
            self._end(worker)
        else:
            self._close(worker)
            end_tree(worker.pid)

    def _take(self, worker: _Worker, line: bytes) -> None:
        result = _expected(line, worker.task)
        if result is None:
            self._garbled(worker)
            return
        self._results.append(line + b"\n")
        self._settle(worker)
        if result.last:
            self._requeue(worker)
            self._end(worker)

    def _garbled(self, worker: _Worker) -> None:
        """Something other than a result came from a worker: it cannot be trusted any more."""
        if worker.task is not None:
            self._fail(worker, "crash", "the call wrote to the channel between worker and host")
        elif worker.pid in self._workers:
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
            self._queue.appendleft(worker.task)
            worker.task = None

    def _fail(self, worker: _Worker, kind: FailureKind, message: str) -> None:
        """Record the current call as failed, end the worker, keep the rest of its task."""
        task = worker.task
        assert task is not None
        seconds = time.monotonic() - worker.since
        failure = Result(int(task.id), task.rewards[0], seconds, kind=kind, message=message)
        self._results.append(dump_result(failure))
        self._settle(worker)
        self._requeue(worker)
        self._end(worker)

    def _expire(self) -> None:
        for worker in list(self._workers.values()):
            if worker.task is None or time.monotonic() < self._deadline(worker):
                continue
            self._read(worker)  # a result that arrived while the host was busy is in time
            if worker.task is not None and time.monotonic() >= self._deadline(worker):
                timeout_s = self._jobs[worker.task.rewards[0]].timeout_s
                self._fail(
                    worker,
                    "timeout",
                    f"no result after {timeout_s:g} s; the call and everything it started were killed",
                )

    def _end(self, worker: _Worker) -> None:
        del self._workers[worker.pid]
        self._close(worker)
        end_tree(worker.pid)

    def _close(self, worker: _Worker) -> None:
        if worker.channel.fileno() >= 0:
            self._selector.unregister(worker.channel)
            worker.channel.close()

    def _reap(self) -> None:
        """Settle the calls of workers that died; end whatever they left behind."""
        self._wakeup.recv(4096)
        for pid, status in dead_children():
            if (worker := self._workers.get(pid)) is None:
                continue
            self._read(worker)
            if worker.task is not None:
                self._fail(worker, "crash", f"the worker died during the call: {_status(status)}")
            elif pid in self._workers:
                self._end(worker)
        for stray in children(os.getpid()) - self._workers.keys():
            end_tree(stray)

    def _flush(self) -> None:
        if self._results:
            self._send(b"".join(self._results))
            self._results.clear()

    def _send(self, data: bytes) -> None:
        """Write to the main process; give up when it is gone (a child of it may hold the pipe's other end)."""
        view = memoryview(data)
        while view and self._open:
            if select.select([], [self._outbox], [], PATIENCE_S)[1]:
                view = view[os.write(self._outbox, view[: select.PIPE_BUF]) :]
            else:
                self._open = os.getppid() == self._plan.parent


def prepare(plan: Plan) -> list[Job]:
    """Import the plugins and let the configured sources get ready.

    Raises:
        UserError: a plugin, a reward or the memory limit is wrong; the message says which and why.
    """
    sources = reward_sources(build_manager(plan.plugins))
    check_rewards(plan.rewards, sources)
    jobs = []
    for reward in plan.rewards:
        source = sources[reward.source]
        _get_ready(source)
        jobs.append(Job(source, source.check_options(reward.options), reward.timeout_s or source.timeout_s))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() // 2**20
    if taken >= plan.scoring.memory_mb:
        raise ConfigError(
            f"scoring.memory_mb = {plan.scoring.memory_mb} is less than the {taken} MB of address space that the "
            "plugins take before the first call; raise it."
        )
    return jobs


def main() -> None:
    """Entry point of the host process: the protocol is on its standard input and output, its log is standard error."""
    inbox, outbox = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.alarm(START_S)
    try:
        become_subreaper()
        plan = load_plan(_first_line(inbox))
        jobs = prepare(plan)
        gc.freeze()  # what is loaded now stays shared with the workers
        signal.alarm(0)
        Host(plan, jobs, inbox, outbox).run()
    except UserError as error:
        os.write(outbox, dump_message({"refused": str(error)}))
    except BrokenPipeError:
        pass  # the main process is gone, so nobody is left to tell
    finally:
        end_children()


def _get_ready(source: RewardSource) -> None:
    if source.prepare is None:
        return
    try:
        source.prepare()
    except Exception as error:
        raise ConfigError(f"reward source {source.name!r} cannot get ready: {type(error).__name__}: {error}") from error


def _first_line(inbox: int) -> bytes:
    # Byte by byte: what follows belongs to the loop.
    line = bytearray()
    while (byte := os.read(inbox, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def _expected(line: bytes, task: _Task | None) -> Result | None:
    """The result of the task's current call, or None when the line is anything else."""
    if task is None:
        return None
    try:
        result = load_result(line)
    except (ValueError, TypeError, RecursionError):
        return None
    return result if (result.task, result.reward) == (int(task.id), task.rewards[0]) else None


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}."
    name = signal.Signals(-code).name
    if code == -signal.SIGKILL:
        return f"{name} (no memory left on the machine, or the call ended its own worker or closed its channel)."
    return f"{name}."


if __name__ == "__main__":
    main()
