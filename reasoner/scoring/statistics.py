"""Counts calls and failures by reward source, and says when a source fails too often. Pure state, no processes.

The failure rate is that of responses, so that it means the same for a call that sees one and for a call that sees many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasoner.errors import ScoringError
from reasoner.records import Failure, FailureKind

MIN_RESPONSES = 8
"""responses below which a failure rate says too little to stop a run"""


@dataclass(frozen=True, slots=True)
class FailedResponse:
    """A response on which a source failed."""

    problem_id: str
    sample: int
    """its index in its group, from 0"""
    failure: Failure

    def __str__(self) -> str:
        return f"Problem {self.problem_id}, response {self.sample}: {self.failure.kind}: {self.failure.message}"


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """One reward source in one `score` call."""

    source: str
    calls: int
    """calls with an outcome, failed ones included; a group or batch is one"""
    cached: int
    """responses that needed no call, because an equal one was made"""
    responses: int
    """responses that calls were, or will be, made for"""
    failures: Mapping[FailureKind, int]
    """responses on which it failed, by kind; kinds that did not occur are absent"""
    seconds: float
    """seconds in the source, summed over calls (and workers)"""
    example: FailedResponse | None
    """the first failure"""

    @property
    def failed(self) -> int:
        """Responses on which it failed."""
        return sum(self.failures.values())


class Tally:
    """The running count of one `score` call."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._expected: dict[str, int] = dict.fromkeys(sources, 0)
        self._calls: Counter[str] = Counter()
        self._cached: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(sources, 0.0)
        self._failures: dict[str, Counter[FailureKind]] = {source: Counter() for source in sources}
        self._examples: dict[str, FailedResponse] = {}

    def expect(self, source: str, responses: int) -> None:
        """Calls will be made for that many responses more, or fewer, at most."""
        self._expected[source] += responses

    def spare(self, source: str) -> None:
        """A response needs no call because an equal one was made."""
        self._expected[source] -= 1
        self._cached[source] += 1

    def add(self, source: str, seconds: float, failed: Sequence[FailedResponse]) -> None:
        """Count one call with those of its responses on which it failed."""
        self._calls[source] += 1
        self._seconds[source] += seconds
        for component in failed:
            self._failures[source][component.failure.kind] += 1
            self._examples.setdefault(source, component)

    def statistics(self) -> dict[str, SourceStatistics]:
        """By source, in the order of the configured rewards."""
        return {
            source: SourceStatistics(
                source,
                self._calls[source],
                self._cached[source],
                self._expected[source],
                dict(self._failures[source]),
                seconds,
                self._examples.get(source),
            )
            for source, seconds in self._seconds.items()
        }

    def check(self, max_failure_rate: float) -> None:
        """Stop as soon as it is certain that a source fails on more than this share of all responses, those to come
        included.

        Raises:
            ScoringError: naming the source, how often it failed and an example.
        """
        if any(each.total() > max_failure_rate * self._expected[source] for source, each in self._failures.items()):
            check_failure_rate([self.statistics()], max_failure_rate)


def check_failure_rate(statistics: Sequence[Mapping[str, SourceStatistics]], max_failure_rate: float) -> None:
    """Judge the failures of every source over all of these calls together, such as those of all ranks.

    Raises:
        ScoringError: one failed on more than this share of the responses; with how often it failed and an example.
    """
    for source in dict.fromkeys(source for each in statistics for source in each):
        parts = [each[source] for each in statistics if source in each]
        responses, failed = sum(part.responses for part in parts), sum(part.failed for part in parts)
        if responses >= MIN_RESPONSES and failed > max_failure_rate * responses:
            failures = sum((Counter(part.failures) for part in parts), Counter[FailureKind]())
            example = next(part.example for part in parts if part.example is not None)
            raise ScoringError(_too_many(source, failures, responses, max_failure_rate, example))


def _too_many(
    source: str, failures: Counter[FailureKind], responses: int, max_failure_rate: float, example: FailedResponse
) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in failures.most_common())
    return (
        f"reward source {source!r} failed on {failures.total()} of {responses} responses ({kinds}), more than "
        f"scoring.max_failure_rate = {max_failure_rate}. {example}\nRepair the source, give it more time "
        "(rewards.timeout_s) or memory (scoring.memory_mb), or raise scoring.max_failure_rate."
    )
