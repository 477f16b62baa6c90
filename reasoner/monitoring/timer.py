"""The wall-clock time of a step, by stage: the metrics `time/...`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Timer:
    """Measures the seconds that each stage of a step takes: `with timer("sampling"): ...`."""

    def __init__(self) -> None:
        self._started = self._ended = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time inside to `stage`."""
        started = time.perf_counter()
        try:
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

    @property
    def metrics(self) -> dict[str, float]:
        """`time/<stage>` and `time/total`, seconds."""
        stages = {f"time/{stage}": seconds for stage, seconds in self.seconds.items()}
        return {**stages, "time/total": time.perf_counter() - self._started}


class IdleTime:
    """The share of the time between two looks in which something had nothing to do."""

    def __init__(self) -> None:
        self._looked, self._busy_s = time.perf_counter(), 0.0

    def since_last(self, busy_s: float) -> float:
        """From the last look, or the beginning, to now.

        Args:
            busy_s: seconds in which it had something to do, so far.
        """
        now = time.perf_counter()
        share = 1.0 - (busy_s - self._busy_s) / max(now - self._looked, 1e-9)
        self._looked, self._busy_s = now, busy_s
        return min(1.0, max(0.0, share))
