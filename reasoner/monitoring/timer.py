"""The wall-clock time of a step: by stage, the metrics `time/...`; and who worked when, the timeline."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Literal, TypeVar

T = TypeVar("T")
Lane = Literal["sampler", "environment", "scoring", "learner", "handover", "checkpoint"]
LANES: Mapping[Lane, str] = {
    "sampler": "sampler",
    "environment": "environment",
    "scoring": "scoring",
    "learner": "learner",
    "handover": "hand-over",
    "checkpoint": "checkpoint",
}
"""by name, what they are called; in the order in which they are drawn"""
NEAR = 1 / 500
"""share of a step below which a gap is not drawn"""
WorkSpan = tuple[float, float]
"""from, to"""
LANE_OF: Mapping[str, Lane] = {
    "update": "learner",
    "check": "learner",
    "handover": "handover",
    "checkpoint": "checkpoint",
}
"""stage -> who works meanwhile; during the others the learner waits"""


@dataclass(frozen=True, slots=True)
class StepTimeline:
    """The spans of one step in which each part worked."""

    step: int
    seconds: float
    """of the whole step"""
    lanes: Mapping[str, tuple[WorkSpan, ...]]
    """by lane, seconds since the step began; lanes that did nothing are absent"""

    def busy(self, lane: Lane) -> float:
        """The share of the step in which a part worked.

        >>> StepTimeline(1, 10.0, {"learner": ((0.0, 1.0), (6.0, 10.0))}).busy("learner")
        0.5
        """
        return sum(end - start for start, end in self.lanes.get(lane, ())) / self.seconds if self.seconds else 0.0


class Timeline:
    """Notes when each part works: `with timeline("learner"): ...`, from any thread. A part works while at least one
    caller is inside."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside: Counter[Lane] = Counter()
        self._began: dict[Lane, float] = {}
        """lanes that work now, since when"""
        self._spans: dict[Lane, list[WorkSpan]] = {}

    @contextmanager
    def __call__(self, lane: Lane) -> Iterator[None]:
        """This part works meanwhile."""
        with self._lock:
            if not self._inside[lane]:
                self._began[lane] = time.perf_counter()
            self._inside[lane] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[lane] -= 1
                if not self._inside[lane]:
                    self._spans.setdefault(lane, []).append((self._began.pop(lane), time.perf_counter()))

    def cut(self, step: int, start: float, end: float) -> StepTimeline:
        """What happened in a step, with what is still under way; what ended before `end` is forgotten.

        Args:
            start: when the step began, by `time.perf_counter`.
            end: when it ended.
        """
        with self._lock:
            spans = {lane: [*of_lane] for lane, of_lane in self._spans.items()}
            for lane, began in self._began.items():
                spans.setdefault(lane, []).append((began, end))
            self._spans = {lane: [span for span in of_lane if span[1] > end] for lane, of_lane in self._spans.items()}
        inside = {lane: joined(of_lane, start, end) for lane, of_lane in spans.items()}
        return StepTimeline(step, end - start, {lane: inside[lane] for lane in LANES if inside.get(lane)})


def joined(spans: Sequence[WorkSpan], start: float, end: float) -> tuple[WorkSpan, ...]:
    """Spans in order, cut to what is between two points in time and counted from the first; those with next to nothing
    between them as one.

    >>> joined([(1.0, 2.0), (2.001, 4.0), (5.0, 9.0)], start=1.5, end=6.5)
    ((0.0, 2.5), (3.5, 5.0))
    """
    found: list[WorkSpan] = []
    for first, last in sorted(spans):
        first, last = max(first, start) - start, min(last, end) - start
        if last <= first:
            continue
        if found and first - found[-1][1] <= NEAR * (end - start):
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return tuple(found)


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
