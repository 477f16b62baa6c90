"""The environment host when something outside of its calls fails: open files, the log, the host itself."""

from __future__ import annotations

import asyncio
import os
import queue
import resource
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from reasoner import Problem, Response, reward, tool
from reasoner.config import EnvironmentConfig, ScoringConfig
from reasoner.environments import host_client
from reasoner.environments.choose import choose
from reasoner.environments.host_client import HostClient
from reasoner.environments.workers.protocol import (
    CallOutcome,
    CallRequest,
    dump_call,
    dump_call_output,
    dump_outcome,
    load_outcome,
)
from reasoner.environments.workers.worker_pool import SessionPool
from reasoner.errors import EnvironmentsError, RunError
from reasoner.scoring.workers.protocol import COMMON, load_result
from reasoner.scoring.workers.worker import ConfiguredSource
from reasoner.scoring.workers.worker_pool import ScoringPool
from reasoner.workers import host

REQUEST = CallRequest("tool", tool="add")


@tool("add")
def add(a: int, b: int) -> int:
    """Add two whole numbers.

    Args:
        a: one
        b: the other
    """
    return a + b


class FakeHost:
    """Says what the test puts into its inbox."""

    def __init__(self, *_: object) -> None:
        self.closed = self.ended = self.dead = False
        self.inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.obituaries = 0

    def first_line(self) -> bytes:
        return b'{"ready": true}\n'

    def listen(self) -> queue.SimpleQueue[bytes | None]:
        return self.inbox

    def send(self, lines: bytes) -> None:
        pass

    def has_died(self) -> bool:
        return self.dead

    def was_stopped(self) -> bool:
        return False

    def obituary(self) -> str:
        self.obituaries += 1
        return "is stuck"

    def close(self) -> None:
        self.closed = True
        self.inbox.put(None)


def full_disk(text: str) -> None:
    raise RunError(f"cannot write log.txt: no space left ({text.splitlines()[0]})")


@contextmanager
def opened(
    monkeypatch: pytest.MonkeyPatch, working: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[tuple[HostClient, FakeHost]]:
    fake = FakeHost()
    monkeypatch.setattr(host_client, "HostProcess", lambda *_: fake)
    monkeypatch.setattr(host_client, "LOOK_S", 0.02)
    monkeypatch.setattr(host_client, "SLACK_S", 0.02)
    client = HostClient(b"", full_disk, working)
    try:
        yield client, fake
    finally:
        client.close()


def test_a_call_is_at_work_until_it_ends_whatever_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: list[int] = []

    @contextmanager
    def working() -> Iterator[None]:
        at_work.append(1)
        try:
            yield
        finally:
            at_work.append(-1)

    with opened(monkeypatch, working) as (client, fake):

        async def run() -> None:
            cancelled = asyncio.ensure_future(client.call("call", 0, 3600.0, REQUEST))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sum(at_work) == 1
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            assert sum(at_work) == 0
            fake.dead = True
            assert await failures(client, 2, 3600.0)

        asyncio.run(run())
    assert (len(at_work), sum(at_work)) == (6, 0)


async def failures(client: HostClient, calls: int, timeout_s: float) -> list[BaseException]:
    waiting = (client.call(f"call {number}", 0, timeout_s, REQUEST) for number in range(calls))
    ends = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
    return [end for end in ends if isinstance(end, BaseException)]


def test_a_log_that_cannot_be_written_fails_every_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch) as (client, fake):

        async def run() -> list[BaseException]:
            asyncio.get_running_loop().call_later(0.1, fake.inbox.put, dump_call_output(2, "hello"))
            return await failures(client, 3, 3600.0) + await failures(client, 1, 3600.0)

        errors = asyncio.run(run())
        assert [str(error) for error in errors] == ["cannot write log.txt: no space left (call 1 printed:)"] * 4


@pytest.mark.parametrize("dead", [False, True])
def test_a_host_that_fails_is_asked_once_how_it_ended(monkeypatch: pytest.MonkeyPatch, dead: bool) -> None:
    with opened(monkeypatch) as (client, fake):
        fake.dead = dead
        errors = asyncio.run(failures(client, 5, 0.0)) + asyncio.run(failures(client, 1, 0.0))
        assert len(errors) == 6
        assert all(isinstance(error, EnvironmentsError) and "is stuck" in str(error) for error in errors)
        assert all(("has been silent" in str(error)) is not dead for error in errors)
        assert fake.obituaries == 1


def test_a_call_has_its_outcome_and_a_closed_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch) as (client, fake):

        async def run() -> CallOutcome:
            asyncio.get_running_loop().call_later(0.05, fake.inbox.put, dump_outcome(CallOutcome(1, 0.0, text="3")))
            return await client.call("call", 0, 3600.0, REQUEST)

        assert asyncio.run(run()).text == "3"
        threading.Timer(0.05, client.close).start()
        (error,) = asyncio.run(failures(client, 1, 3600.0))
        assert str(error) == "tools and environments were closed; open them again"
        assert [str(each) for each in asyncio.run(failures(client, 1, 1.0))] == [str(error)]


@pytest.mark.parametrize("fails", ["fork", "pipe"])
def test_a_worker_that_cannot_be_started_fails_its_call_alone(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def too_many() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, fails, too_many)
    config = EnvironmentConfig(tools=["add"], workers=2)
    told: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        pool = SessionPool(choose(config, {"add": add}, {}), config, selector, told.append, lambda: None)
        before = set(Path("/proc/self/fd").iterdir())
        for call, seat in ((1, 0), (2, 7), (3, 7)):
            pool.submit(dump_call(call, seat, 1.0, REQUEST).rstrip(b"\n"))
        pool.turn()
        assert set(Path("/proc/self/fd").iterdir()) <= before
    outcomes = [load_outcome(line) for line in told]
    assert [(outcome.call, outcome.kind) for outcome in outcomes] == [(1, "crash"), (2, "crash"), (3, "crash")]
    assert {outcome.message for outcome in outcomes} == {
        "its worker could not be started: [Errno 24] Too many open files; lower environment.sessions, or raise "
        "`ulimit -n`"
    }


def test_a_scoring_worker_that_cannot_be_started_fails_calls_only_where_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three calls in two tasks: without a worker each fails by itself, and with one they wait for it."""

    def too_many() -> None:
        raise OSError(24, "Too many open files")

    told: list[bytes] = []
    jobs = [ConfiguredSource(cast(Any, one_point), {}, 5.0, 0, COMMON)] * 2
    tasks = [b"1 0,1 {}", b"2 0 {}"]
    with selectors.DefaultSelector() as selector:
        pool = ScoringPool(jobs, ScoringConfig(workers=2), selector, told.append, lambda: None)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fork", too_many)
            for line in tasks:
                pool.submit(line)
            pool.turn()
        results = [load_result(line) for line in told]
        assert [(each.task, each.reward, each.kind) for each in results] == [
            (1, 0, "crash"),
            (1, 1, "crash"),
            (2, 0, "crash"),
        ]
        assert "Too many open files; lower scoring.workers, or raise `ulimit -n`" in results[0].message
        told.clear()
        sent: list[bytes] = []
        forks = iter([lambda adopt: adopt(-1, cast(Any, None), -1)])

        def fork(pool: ScoringPool, memory_mb: int, serve: Any, adopt: Any) -> Any:
            try:
                worker = next(forks)(adopt)
            except StopIteration:
                raise OSError(24, "Too many open files") from None
            pool._workers[worker.pid] = worker
            return worker

        monkeypatch.setattr(ScoringPool, "_fork", fork)
        monkeypatch.setattr(ScoringPool, "_send", lambda pool, worker, line: sent.append(line))
        for line in tasks:
            pool.submit(line)
        pool.turn()
        assert len(sent) == 1
        assert told == []
        pool._workers.clear()


@reward("one_point")
def one_point(problem: Problem, response: Response) -> float:
    """1.0 for everything."""
    return 1.0


def test_a_host_may_open_as_many_files_as_the_machine_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    for limits, raised in (
        ((1024, 20_000), 20_000),
        ((1024, 2**20), host.OPEN_FILES),
        ((1024, unlimited), host.OPEN_FILES),
        ((2**17, 2**20), 2**17),
        ((unlimited, unlimited), None),
    ):
        done: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits, done=done: done.append(limits))
        host.allow_open_files()
        assert done == ([] if raised is None else [(raised, limits[1])])
    monkeypatch.undo()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == kept
