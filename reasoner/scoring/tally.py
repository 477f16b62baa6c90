"""Counts calls and failures by reward source, and says when a source fails too often. Pure state, no processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasoner.errors import ScoringError
from reasoner.records import Failure, FailureKind

MIN_CALLS = 8
"""calls of a source below which a failure rate says too little to stop a run"""


@dataclass(frozen=True, slots=True)
class FailureExample:
    """The first failure of a source, with where it happened."""

    problem_id: str
    sample: int
    """index of the response in its group, from 0; of a group or batch the first one"""
    failure: Failure


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """One reward source in one `score` call."""

    source: str
    calls: int
    """calls with an outcome, failed ones included; a group or batch is one"""
    cached: int
    """responses that needed no call, because an equal one was made"""
    failures: Mapping[FailureKind, int]
    """failed calls by kind; kinds that did not occur are absent"""
    seconds: float
    """seconds in the source, summed over calls (and workers)"""
    example: FailureExample | None

    @property
    def failed(self) -> int:
        """Failed calls of all kinds."""
        return sum(self.failures.values())


class Tally:
    """The running count of one `score` call."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._expected: dict[str, int] = dict.fromkeys(sources, 0)
        self._calls: Counter[str] = Counter()
        self._cached: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(sources, 0.0)
        self._failures: dict[str, Counter[FailureKind]] = {source: Counter() for source in sources}
        self._examples: dict[str, FailureExample] = {}

    def expect(self, source: str, calls: int) -> None:
        """That many calls more, or fewer, will be made at most."""
        self._expected[source] += calls

    def spare(self, source: str) -> None:
        """An expected call is not made because an equal one was."""
        self._expected[source] -= 1
        self._cached[source] += 1

    def add(self, source: str, seconds: float, failure: Failure | None, problem_id: str, sample: int) -> None:
        """Count one outcome."""
        self._calls[source] += 1
        self._seconds[source] += seconds
        if failure is not None:
            self._failures[source][failure.kind] += 1
            self._examples.setdefault(source, FailureExample(problem_id, sample, failure))

    def statistics(self) -> dict[str, SourceStatistics]:
        """By source, in the order of the configured rewards."""
        return {
            source: SourceStatistics(
                source,
                self._calls[source],
                self._cached[source],
                dict(self._failures[source]),
                seconds,
                self._examples.get(source),
            )
            for source, seconds in self._seconds.items()
        }

    def check(self, max_failure_rate: float) -> None:
        """Stop as soon as it is certain that a source fails in more than this share of its calls (made and to come).

        Raises:
            ScoringError: naming the source, how often it failed and an example.
        """
        for source, failures in self._failures.items():
            calls, failed = self._expected[source], failures.total()
            if calls >= MIN_CALLS and failed > max_failure_rate * calls:
                raise ScoringError(_too_many(source, failures, calls, max_failure_rate, self._examples[source]))


def _too_many(
    source: str, failures: Counter[FailureKind], calls: int, max_failure_rate: float, example: FailureExample
) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in failures.most_common())
    return (
        f"reward source {source!r} failed in {failures.total()} of {calls} calls ({kinds}), more than "
        f"scoring.max_failure_rate = {max_failure_rate}. Example: problem {example.problem_id}, response "
        f"{example.sample}: {example.failure.kind}: {example.failure.message}\nMend the source, give it more time "
        "(rewards.timeout_s) or memory (scoring.memory_mb), or raise scoring.max_failure_rate."
    )
