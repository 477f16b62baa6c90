"""What the pipeline asks of whoever scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from reasoner.records import Component, Group, ScoredGroup
from reasoner.scoring.statistics import SourceStatistics

CaseProgress = Callable[[int], None]
"""`(cases done)`"""


class Scorer(Protocol):
    """What evaluation asks of the scoring service."""

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Score groups as they come."""
        ...


class CountingScorer(Scorer, Protocol):
    """A scorer that counts what it did."""

    def statistics(self) -> Mapping[str, SourceStatistics]:
        """Calls and failures by source, of the last `score` call."""
        ...


def verdict_text(component: Component) -> str:
    """A verdict in a few words: `0.5`, `not applicable`, `timeout: ...`."""
    if component.failure is not None:
        return f"{component.failure.kind}: {component.failure.message}"
    return "not applicable" if component.value is None else f"{component.value:g}"
