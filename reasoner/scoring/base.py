"""What the pipeline asks of whoever scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from reasoner.records import Group, ScoredGroup


class Scorer(Protocol):
    """What evaluation asks of the scoring service."""

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Score groups as they come."""
        ...
