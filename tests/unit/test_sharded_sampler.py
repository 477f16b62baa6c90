"""Samplers over ranks: threads in place of processes, and samplers that only count."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from threading import Barrier, Lock
from typing import Any, TypeVar, cast

import pytest
import torch

from reasoner.config import RewardConfig
from reasoner.distributed.exchange import pack, unpack
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import SamplerError
from reasoner.records import Group, Message, Problem, Prompt, Receipt, SamplingParams
from reasoner.sampling.base import Sampler, TokenRequest
from reasoner.sampling.sharded import ShardedSampler
from reasoner.training.build import evaluator
from reasoner.training.synced_sampler import SyncedSampler
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import byte_tokenizer
from tests.unit.fake_tokens import FakeTokens

T = TypeVar("T")
PROMPTS = [Prompt(Problem(f"p{n}", (Message("user", "?"),), ""), (1,)) for n in range(5)]


class Fake:
    """Gives an empty group per prompt; remembers what it was told."""

    name, description = "fake", "a fake"

    def __init__(self) -> None:
        self.version = 0
        self.engines = [""]
        self.seed = -1
        self.asleep_version = 0
        self.devices: list[Device] = []
        self.told: list[str] = []

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        self.seed = params.seed
        return iter([Group(prompt.problem, prompt.token_ids, ()) for prompt in prompts])

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        return {name: [[float(len(groups))]] for name in self.engines}

    def load(self, folder: Path, version: int) -> Receipt:
        self.version = version
        return Receipt(version, "sum", 3, 0.0)

    def change(self, folder: Path, version: int) -> Receipt:
        self.told.append("change")
        return self.load(folder, version)

    def sleep(self) -> None:
        self.told.append("sleep")
        self.version = self.asleep_version

    def wake(self) -> None:
        self.told.append("wake")
        for device in self.devices:
            device.wake_engine()

    def close(self) -> None:
        self.told.append("close")


@dataclass(frozen=True)
class Threaded(Ranks):
    """A rank that is a thread."""

    board: list[Any] = field(default_factory=list)
    barrier: Any = None

    tickets: Counter[str] = field(default_factory=Counter)
    lock: Any = field(default_factory=Lock)
    sent: list[int] = field(default_factory=list)
    """bytes that this rank gives to others, by call"""

    def ticket(self, key: str) -> int:
        with self.lock:
            self.tickets[key] += 1
            return self.tickets[key]

    def gather(self, value: T) -> list[T]:
        return self._meet(value, value)

    def gather_first(self, value: T) -> list[T]:
        values = self._meet(value, None if self.first else value)
        return values if self.first else [value]

    def exchange(self, values: Sequence[T]) -> list[T]:
        of_others = [value for rank, value in enumerate(values) if rank != self.index]
        return [row[self.index] for row in self._meet(values, of_others)]

    def _meet(self, value: T, leaves: Any) -> list[T]:
        """As bytes, except for a rank's own."""
        self.sent.append(0 if leaves is None else len(pack(leaves)))
        self.board[self.index] = pack(value)
        self.barrier.wait(30)
        found = [value if rank == self.index else unpack(packed) for rank, packed in enumerate(self.board)]
        self.barrier.wait(30)
        return found


def on_ranks(count: int, do: Callable[[Ranks], T]) -> list[T]:
    shared: dict[str, Any] = {"board": [None] * count, "barrier": Barrier(count), "tickets": Counter(), "lock": Lock()}
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(do, [Threaded(index, count, **shared) for index in range(count)]))


@pytest.mark.parametrize(("per_engine", "holders"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (4, [0])])
def test_engines_share_the_prompts_and_every_rank_has_a_receipt(per_engine: int, holders: list[int]) -> None:
    fakes = {index: Fake() for index in holders}

    def rank(ranks: Ranks) -> tuple[list[str], Receipt, int, str]:
        own = cast(Sampler, fakes[ranks.index]) if ranks.index in fakes else None
        with ShardedSampler(own, ranks, per_engine) as sampler:
            assert sampler.version == 0
            sampler.sleep()
            sampler.wake()
            receipt = sampler.load(Path(), 7)
            scored = sampler.score([Group(PROMPTS[0].problem, (1,), ())])
            assert scored == {f"rank {index}": [[1.0]] for index in holders}
            drawn = [group.problem.id for group in sampler.sample(PROMPTS, 2, SamplingParams(1.0, 8, seed=3))]
            return drawn, receipt, sampler.version, sampler.description

    found = on_ranks(4, rank)
    assert sorted(name for drawn, *_ in found for name in drawn) == ["p0", "p1", "p2", "p3", "p4"]
    assert {index for index, (drawn, *_) in enumerate(found) if drawn} == set(holders)
    assert {receipt for _, receipt, _, _ in found} == {Receipt(7, "sum", 3, 0.0)}
    assert {version for *_, version, _ in found} == {7}
    where = "each of 4 ranks" if per_engine == 1 else f"each {per_engine} of 4 ranks"
    assert {description for *_, description in found} == {f"a fake, on {where}"}
    assert len({fake.seed for fake in fakes.values()}) == len(holders)
    assert all(fake.told == ["sleep", "wake", "close"] for fake in fakes.values())


def test_servers_that_all_ranks_share_are_asked_once() -> None:
    def rank(ranks: Ranks) -> dict[str, list[list[float]]]:
        fake = Fake()
        fake.engines = ["http://a", "http://b"]
        return ShardedSampler(cast(Sampler, fake), ranks).score([])

    assert on_ranks(3, rank) == [{"http://a": [[0.0]], "http://b": [[0.0]]}] * 3


def test_all_neighbours_of_an_engine_know_that_it_gave_its_weights_up() -> None:
    """Each of them decides whether weights are handed over, which they do together."""

    def rank(ranks: Ranks) -> int:
        fake = Fake()
        fake.asleep_version = -1
        sampler = ShardedSampler(cast(Sampler, fake) if ranks.index == 0 else None, ranks, 2)
        sampler.sleep()
        sampler.wake()
        return sampler.version

    assert on_ranks(2, rank) == [-1, -1]


@dataclass
class Device:
    """Memory of one GPU: what the allocator of its rank keeps, and what an engine has."""

    size: int = 80
    kept: int = 52
    engine: int = 0

    def wake_engine(self) -> None:
        self.engine = 32
        if self.kept + self.engine > self.size:
            raise MemoryError(f"{self.kept} are kept, {self.engine} are wanted of {self.size}")

    def empty_cache(self) -> None:
        time.sleep(0.05)  # a neighbour that takes longer than the one with the engine
        self.kept = 25


@pytest.mark.parametrize("per_engine", [1, 2])
def test_an_engine_wakes_when_no_learner_on_its_devices_keeps_memory(
    monkeypatch: pytest.MonkeyPatch, per_engine: int
) -> None:
    """By the numbers of `plan` for 7B on GPUs of 80 GiB: the learner and what it keeps of the update, the engine."""
    devices, mine = [Device(), Device()], threading.local()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: mine.device.empty_cache())

    def rank(ranks: Ranks) -> None:
        mine.device = devices[ranks.index]
        if ranks.index == 1:
            time.sleep(0.05)
        fake = Fake()
        fake.devices = devices if per_engine == 2 else [devices[ranks.index]]
        sampler = ShardedSampler(cast(Sampler, fake) if ranks.index % per_engine == 0 else None, ranks, per_engine)
        synced = SyncedSampler(cast(Any, None), sampler, cast(Any, None), ranks, cast(Any, None), print, asleep=True)
        synced.wake()
        assert not synced.asleep

    on_ranks(2, rank)
    assert [(device.kept, device.engine) for device in devices] == [(25, 32), (25, 32)]


def test_one_rank_of_a_node_after_the_other() -> None:
    """Two nodes: three ranks and one; at most one of a node at a time, in the order of their places."""
    inside: list[list[int]] = [[], []]
    order: list[tuple[int, int]] = []

    def rank(ranks: Ranks) -> None:
        node, local = divmod(ranks.index, 3)
        with replace(ranks, node=node, local=local).in_turn():
            assert not inside[node]
            inside[node].append(local)
            time.sleep(0.02)
            order.append((node, local))
            inside[node].remove(local)

    on_ranks(4, rank)
    assert [local for node, local in order if node == 0] == [0, 1, 2]
    assert sorted(order) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    with ALONE.in_turn():
        pass


LENGTHS = (40, 3, 5, 30, 4, 2, 9, 3, 6, 2, 25, 2, 3)
"""tokens of the longest response to each problem"""


class SeededTokens(FakeTokens):
    """An engine whose requests have noise of their own, as vLLM's on CUDA: what is written depends on the request.

    Args:
        wait: called before each token of all that runs.
        sequences: how many run at the same time.
    """

    def __init__(self, wait: Callable[[], None], sequences: int) -> None:
        def script(request: TokenRequest, k: int) -> Iterator[int]:
            random = Random(request.params.seed + k)
            for _ in range(max(1, LENGTHS[request.token_ids[0]] - k)):
                yield random.randrange(3, 200)

        super().__init__(script, byte_tokenizer(), end_tokens=(2,))
        self.independent_sequences, self._wait, self.most = sequences, wait, 0

    def step(self) -> None:
        self._wait()
        self.most = max(
            self.most, sum(request.n for request in (running.request for running in self._running.values()))
        )
        super().step()


def queued_prompts(count: int) -> list[Prompt]:
    return [Prompt(Problem(f"p{n}", (Message("user", "?"),), ""), (n, 1)) for n in range(count)]


@pytest.mark.parametrize(("count", "problems"), [(2, 13), (3, 13), (3, 4), (3, 2)])
def test_an_engine_that_is_slow_gets_fewer_problems_and_the_batch_is_that_of_one_rank(
    count: int, problems: int
) -> None:
    """Rank 0 waits before each token until the others have sampled all that they can."""
    begun, done = threading.Event(), threading.Event()
    prompts = queued_prompts(problems)
    finished: list[int] = []

    def wait() -> None:
        begun.set()
        assert done.wait(20)

    def wait_for_it() -> None:
        assert begun.wait(20)

    def rank(here: Ranks) -> tuple[list[Group], int]:
        tokens = SeededTokens(wait_for_it if here.index else wait, sequences=2)
        with ShardedSampler(TrajectorySampler(tokens), here) as sampler:
            groups = list(sampler.sample(prompts, 2, SamplingParams(1.0, 64, seed=3)))
        finished.append(here.index)
        if len(finished) == count - 1:
            done.set()
        return groups, tokens.most

    found = on_ranks(count, rank)
    with TrajectorySampler(SeededTokens(lambda: None, 1000)) as alone:
        expected = {group.problem.id: group for group in alone.sample(prompts, 2, SamplingParams(1.0, 64, seed=3))}
    assert len(expected) == problems
    sampled = [group for groups, _ in found for group in groups]
    assert {group.problem.id: group for group in sampled} == expected
    assert len(sampled) == problems  # each once
    slow = {group.problem.id for group in found[0][0]}
    assert slow == {f"p{n}" for n in range(0, problems, count)[:3]}  # begun or queued: three times two responses
    assert all(most <= 6 for _, most in found)


def test_an_engine_with_room_for_all_that_it_was_dealt_leaves_others_theirs() -> None:
    """However late they come: an engine never begins more groups at the same time than it was dealt, and the first of
    each is its own."""
    prompts = queued_prompts(9)
    held = threading.Event()

    def rank(here: Ranks) -> list[str]:
        with ShardedSampler(TrajectorySampler(SeededTokens(lambda: None, 1000)), here) as sampler:
            draws = sampler.sample(prompts, 1, SamplingParams(1.0, 64, seed=3))
            if here.index == 2:
                assert held.wait(20)
            names = [group.problem.id for group in draws]
        if here.index == 0:
            held.set()
        return names

    names = on_ranks(3, rank)
    assert "p2" in names[2]
    assert sorted(name for own in names for name in own) == sorted(f"p{n}" for n in range(9))


@pytest.mark.parametrize("budget", [0, 40, None])
def test_with_a_budget_of_calls_every_engine_samples_what_it_was_dealt(budget: int | None) -> None:
    """Each rank has an equal part of the calls: a fast engine would need more of them while others' are left."""
    rewards = {"a": [RewardConfig(source="exact")], "b": [RewardConfig(source="judge", max_calls=budget)]}
    prompts, finished = queued_prompts(13), threading.Event()

    def wait() -> None:
        assert finished.wait(20)

    def rank(here: Ranks) -> dict[str, Group]:
        engine = TrajectorySampler(SeededTokens(wait if here.index == 0 else lambda: None, sequences=2))
        with evaluator._sharded(engine, rewards, here, 1) as sampler:
            groups = list(sampler.sample(prompts, 2, SamplingParams(1.0, 64, seed=3)))
        finished.set()
        return {group.problem.id: group for group in groups}

    slow, fast = on_ranks(2, rank)
    dealt = {f"p{n}" for n in range(0, 13, 2)}
    assert (set(slow) == dealt) == (budget is not None)
    with TrajectorySampler(SeededTokens(lambda: None, 1000)) as alone:
        expected = {group.problem.id: group for group in alone.sample(prompts, 2, SamplingParams(1.0, 64, seed=3))}
    assert slow | fast == expected  # whoever samples it, a response is the same
    assert len(slow) + len(fast) == 13


def test_an_engine_that_fails_ends_with_its_message_and_no_other_waits_for_it() -> None:
    prompts = queued_prompts(13)
    steps = iter(range(4))

    def fail() -> None:
        if next(steps, None) is None:
            raise SamplerError("the engine is gone")

    def rank(here: Ranks) -> str | int:
        with ShardedSampler(TrajectorySampler(SeededTokens(fail if here.index else lambda: None, 2)), here) as sampler:
            try:
                return len(list(sampler.sample(prompts, 2, SamplingParams(1.0, 64, seed=3))))
            except SamplerError as error:
                return str(error)

    others, failing = on_ranks(2, rank)
    assert "the engine is gone" in str(failing)
    assert "It was sampling: problem p" in str(failing)
    assert 7 <= int(others) <= 12  # all but what the other had begun


def test_where_noise_is_shared_every_engine_samples_what_it_was_dealt() -> None:
    """On a CPU a response depends on what is sampled with it: the deal does not depend on the clock."""

    def rank(here: Ranks) -> tuple[list[str], list[str]]:
        tokens = SeededTokens(lambda: None, 0)
        with ShardedSampler(TrajectorySampler(tokens), here) as sampler:
            names = [
                group.problem.id for group in sampler.sample(queued_prompts(5), 2, SamplingParams(1.0, 64, seed=3))
            ]
        assert not cast(Any, here).tickets
        return sorted(names), tokens.told[:1]

    (first, told), (second, other) = on_ranks(2, rank)
    assert (first, second) == (["p0", "p2", "p4"], ["p1", "p3"])
    assert told != other  # each has a seed of its own
