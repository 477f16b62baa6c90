"""The wall-clock time of a step, by stage: the metrics `time/...`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from reasoner.monitoring.timeline import Lane, StepTimeline, Timeline

T = TypeVar("T")
LANE_OF: Mapping[str, Lane] = {
    "update": "learner",
    "check": "learner",
    "handover": "handover",
    "checkpoint": "checkpoint",
}
"""stage -> who works meanwhile; during the others the learner waits"""


class Timer:
    """Measures the seconds that each stage of a step takes: `with timer("sampling"): ...`."""

    def __init__(self, timeline: Timeline | None = None) -> None:
        """
        Args:
            timeline: notes who works; None: nobody asks.
        """
        self._timeline = timeline
        self._started = self._ended = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time inside to `stage`."""
        started, lane = time.perf_counter(), LANE_OF.get(stage)
        try:
            with self._timeline(lane) if self._timeline and lane else nullcontext():
                yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    def iterate(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items, with the time until the last one counted as that of `stage`. What the consumer does between two
        items is included, because the producer works on meanwhile."""
        with self(stage):
            yield from items
        self._ended = time.perf_counter()

    def rest(self, stage: str) -> None:
        """Add the time since `iterate` ran out of items to `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - self._ended

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add what another timer measured, by stage."""
        for stage, more in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + more

    def timeline(self, step: int) -> StepTimeline:
        """Who worked when since the timer was made.

        Raises:
            ValueError: nobody noted it.
        """
        if self._timeline is None:
            raise ValueError("this timer was made without a timeline")
        return self._timeline.cut(step, self._started, time.perf_counter())

    @property
    def metrics(self) -> dict[str, float]:
        """`time/<stage>` and `time/total`, seconds."""
        stages = {f"time/{stage}": seconds for stage, seconds in self.seconds.items()}
        return {**stages, "time/total": time.perf_counter() - self._started}
