"""Sampling and scoring over the ranks: each has a sampler and scoring workers of its own, and all get the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from reasoner.evaluation import Scorer
from reasoner.ranks import Ranks
from reasoner.records import Group, Prompt, Receipt, SamplingParams, ScoredGroup
from reasoner.sampling.base import Sampler

_SEED = 104_729
"""between the seeds of the ranks: each draws with others"""


class SpreadSampler:
    """Draws this rank's share of the groups: every `count`-th prompt."""

    def __init__(self, sampler: Sampler, ranks: Ranks) -> None:
        self._sampler, self._ranks = sampler, ranks
        self.name = sampler.name
        self.description = f"{sampler.description}, on each of {ranks.count} ranks"

    @property
    def version(self) -> int:
        return self._sampler.version

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        mine = prompts[self._ranks.index :: self._ranks.count]
        params = replace(params, seed=params.seed + self._ranks.index * _SEED)
        return self._sampler.sample(mine, n, params) if mine else iter(())

    def load(self, folder: Path, version: int) -> Receipt:
        return self._sampler.load(folder, version)

    def sleep(self) -> None:
        self._sampler.sleep()

    def wake(self) -> None:
        self._sampler.wake()

    def close(self) -> None:
        self._sampler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class SpreadScorer:
    """Scores this rank's groups and gives those of all ranks."""

    scorer: Scorer
    ranks: Ranks

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        for scored in self.ranks.gather(list(self.scorer.score(groups))):
            yield from scored
