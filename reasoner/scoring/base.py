"""What the pipeline asks of whoever scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from reasoner.records import Component, Group, ScoredGroup

CaseProgress = Callable[[int], None]
"""`(cases done)`"""


class Scorer(Protocol):
    """What evaluation asks of the scoring service."""

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Score groups as they come."""
        ...


def verdict_text(component: Component) -> str:
    """A verdict in a few words: `0.5`, `not applicable`, `timeout: ...`."""
    if component.failure is not None:
        return f"{component.failure.kind}: {component.failure.message}"
    return "not applicable" if component.value is None else f"{component.value:g}"
