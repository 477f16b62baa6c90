"""Scoring on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reasoner.distributed.ranks import Ranks
from reasoner.records import Group, ScoredGroup
from reasoner.scoring.base import Scorer


@dataclass(frozen=True, slots=True)
class ShardedScorer:
    """Scores this rank's groups and gives those of all ranks."""

    scorer: Scorer
    ranks: Ranks

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        for scored in self.ranks.gather(list(self.scorer.score(groups))):
            yield from scored
