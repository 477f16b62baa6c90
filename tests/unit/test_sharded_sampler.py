"""Samplers over ranks: threads in place of processes, and samplers that only count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar, cast

import pytest

from reasoner.distributed.ranks import Ranks
from reasoner.records import Group, Message, Problem, Prompt, Receipt, SamplingParams
from reasoner.sampling.base import Sampler
from reasoner.sampling.sharded import ShardedSampler

T = TypeVar("T")
PROMPTS = [Prompt(Problem(f"p{n}", (Message("user", "?"),), ""), (1,)) for n in range(5)]


class Fake:
    """Gives an empty group per prompt; remembers what it was told."""

    name, description = "fake", "a fake"

    def __init__(self) -> None:
        self.version = 0
        self.engines = [""]
        self.seed = -1
        self.told: list[str] = []

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        self.seed = params.seed
        return iter([Group(prompt.problem, prompt.token_ids, ()) for prompt in prompts])

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        return {name: [[float(len(groups))]] for name in self.engines}

    def load(self, folder: Path, version: int) -> Receipt:
        self.version = version
        return Receipt(version, "sum", 3, 0.0)

    def sleep(self) -> None:
        self.told.append("sleep")

    def wake(self) -> None:
        self.told.append("wake")

    def close(self) -> None:
        self.told.append("close")


@dataclass(frozen=True)
class Threaded(Ranks):
    """A rank that is a thread."""

    board: list[Any] = field(default_factory=list)
    barrier: Any = None

    def gather(self, value: T) -> list[T]:
        self.board[self.index] = value
        self.barrier.wait(30)
        found = list(self.board)
        self.barrier.wait(30)
        return found


def on_ranks(count: int, do: Callable[[Ranks], T]) -> list[T]:
    board, barrier = [None] * count, Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(do, [Threaded(index, count, board=board, barrier=barrier) for index in range(count)]))


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
