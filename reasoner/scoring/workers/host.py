"""The scoring host: a small process between the pipeline and the workers, started once per run by `ScoringService`.

It imports the plugins once and forks workers from itself, hands each worker one call at a time, and kills a worker with
everything it started when the call's deadline has passed. It is single-threaded and never waits for a worker. Host and
workers are subreapers, so no orphan leaves the tree. It ends, and everything below it with it, when the main process
says so, closes the pipe or dies.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reasoner.errors import ConfigError, UserError
from reasoner.plugins.manager import build_manager, reward_sources
from reasoner.plugins.reward_api import RewardSource
from reasoner.processes.subreaper import become_subreaper, end_children
from reasoner.scoring.composition import check_rewards
from reasoner.scoring.workers.protocol import (
    CANCEL,
    CLOSE,
    COMMON,
    START_S,
    LineBuffer,
    Plan,
    dump_message,
    dump_traits,
    load_plan,
)
from reasoner.scoring.workers.worker import ConfiguredSource
from reasoner.scoring.workers.worker_pool import Pool

PATIENCE_S = 1.0
"""seconds after which the host looks whether the main process is still there"""


class ScoringHost:
    """The event loop: tasks in, results out, deadlines in between."""

    def __init__(self, plan: Plan, jobs: Sequence[ConfiguredSource], inbox: int, outbox: int) -> None:
        self._parent, self._inbox, self._outbox = plan.parent, inbox, outbox
        self._incoming = LineBuffer()
        self._results: list[bytes] = []
        self._open = True
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._child_died = socket.socketpair()
        self._traits = [job.traits for job in jobs]
        self._pool = Pool(jobs, plan.scoring, self._selector, self._results.append, self._detach)

    def run(self) -> None:
        """Serve until the main process says so, closes the pipe or is gone."""
        for end in (self._wakeup, self._child_died):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._child_died.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._reap)
        self._selector.register(self._inbox, selectors.EVENT_READ, self._receive)
        self._send(dump_traits(self._traits))
        try:
            while self._open and os.getppid() == self._parent:
                for key, _ in self._selector.select(max(0.0, min(PATIENCE_S, self._pool.patience()))):
                    handle: Callable[[], None] = key.data
                    handle()
                self._pool.turn()
                self._flush()
        finally:
            self._pool.close()

    def _receive(self) -> None:
        data = os.read(self._inbox, 2**20)
        self._open = bool(data)
        for line in self._incoming.feed(data):
            if line == CANCEL:
                self._pool.cancel()
            elif line == CLOSE:
                self._open = False
            else:
                self._pool.submit(*line.split(b" ", 2))

    def _reap(self) -> None:
        self._wakeup.recv(4096)
        self._pool.reap()

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
                self._open = os.getppid() == self._parent

    def _detach(self) -> None:
        """In a forked worker: nothing of the host's may be reached from there."""
        self._selector.close()
        self._wakeup.close()
        self._child_died.close()
        os.close(self._inbox)
        os.close(self._outbox)


def prepare(plan: Plan) -> list[ConfiguredSource]:
    """Import the plugins and let the configured sources get ready.

    Raises:
        UserError: a plugin, a reward or the memory limit is wrong; the message says which and why.
    """
    sources = reward_sources(build_manager(plan.plugins))
    check_rewards(plan.rewards, sources)
    jobs = []
    owners: dict[str, int] = {}  # several tasks may use a source: it gets ready once, and its own workers do all calls
    for index, reward in enumerate(plan.rewards):
        source = sources[reward.source]
        if owners.setdefault(reward.source, index) == index:
            _get_ready(source)
        retries = source.retries if reward.retries is None else reward.retries
        lane = COMMON if source.workers is None else owners[reward.source]
        timeout_s = reward.timeout_s or source.timeout_s
        jobs.append(ConfiguredSource(source, source.check_options(reward.options), timeout_s, retries, lane))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() // 2**20
    if taken >= plan.scoring.memory_mb and any(job.source.limit_memory for job in jobs):
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
    os.close(nowhere)
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
        ScoringHost(plan, jobs, inbox, outbox).run()
    except UserError as error:
        os.write(outbox, dump_message({"refused": str(error)}))
    except BrokenPipeError:
        pass  # the main process is gone, so nobody is left to tell
    finally:
        left = end_children()
    if left:
        sys.exit(f"processes below the scoring host could not be ended: {', '.join(left)}")


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
