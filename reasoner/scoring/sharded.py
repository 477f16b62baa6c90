"""Scoring on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reasoner.distributed.ranks import Ranks
from reasoner.records import Group, ScoredGroup
from reasoner.scoring.base import CountingScorer
from reasoner.scoring.statistics import check_failure_rate


@dataclass(frozen=True, slots=True)
class ShardedScorer:
    """Scores this rank's groups and gives those of all ranks, whose failures are judged together: a rank with few
    responses, or with all of a source's failures, ends no run alone.

    Args:
        scorer: of this rank; it refuses no failure rate itself.
        max_failure_rate: as `scoring.max_failure_rate`.
    """

    scorer: CountingScorer
    ranks: Ranks
    max_failure_rate: float

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """
        Raises:
            ScoringError: on all ranks, where a source failed on too many of the responses of all.
        """
        own = list(self.scorer.score(groups))
        gathered = self.ranks.gather((own, self.scorer.statistics()))
        check_failure_rate([statistics for _, statistics in gathered], self.max_failure_rate)
        for scored, _ in gathered:
            yield from scored
