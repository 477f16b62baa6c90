"""Scoring on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from reasoner.distributed.ranks import Ranks
from reasoner.distributed.remote_tokens import summary_of
from reasoner.records import Group, ScoredGroup
from reasoner.scoring.base import CountingScorer
from reasoner.scoring.statistics import check_failure_rate


@dataclass(frozen=True, slots=True)
class ShardedScorer:
    """Scores this rank's groups and gives those of all ranks, whose failures are judged together: a rank with few
    responses, or with all of a source's failures, ends no run alone. The first rank, which writes them down, gets all
    of them whole but for the experts that were chosen, which are not written down; the others get summaries of what
    they did not sample (`reasoner.distributed.remote_tokens`).

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
        summaries = [summary_of(scored, self.ranks.index) for scored in own]
        gathered = self.ranks.gather((summaries, self.scorer.statistics()))
        check_failure_rate([statistics for _, statistics in gathered], self.max_failure_rate)
        whole = self.ranks.gather_first([replace(scored, group=scored.group.without_routes()) for scored in own])
        for rank, (of_rank, _) in enumerate(gathered):
            if rank == self.ranks.index:
                yield from own
            elif self.ranks.first:
                yield from map(_with_routes_of, whole[rank], of_rank)
            else:
                yield from of_rank


def _with_routes_of(scored: ScoredGroup, summary: ScoredGroup) -> ScoredGroup:
    """The group of another rank, whose experts are fetched when they are needed."""
    pairs = zip(scored.group.responses, summary.group.responses, strict=True)
    responses = tuple(replace(response, routes=other.routes) for response, other in pairs)
    return replace(scored, group=replace(scored.group, responses=responses))
