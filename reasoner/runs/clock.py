"""The time of a run: one clock for the terminal's summary, the report and the model card.

It begins when the run's folder is there. What comes before (Python's imports, a model that is downloaded or converted
for the first time, data that is read) belongs to the installation more than to the run, and would not repeat. It goes
on over interruptions: the time of every start counts, up to the step from which the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a run until now, or until its end."""

    set_up: float
    """opening the models and engines and proving that the sampler takes the weights, in all starts together"""
    evaluation: float
    total: float


class Clock:
    """Counts from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._ended: float | None = None
        self._earlier = 0.0
        self.set_up = self.evaluation = 0.0
        """seconds, of earlier starts too"""
        self.mark()

    @property
    def total(self) -> float:
        """Seconds until now, or until `stop`, of earlier starts too."""
        return self._earlier + (self._ended or time.perf_counter()) - self._began

    def end_set_up(self) -> None:
        """Everything is open: what follows are evaluations and steps."""
        self.set_up += time.perf_counter() - self._began

    def mark(self) -> None:
        """From now on `state` gives the times of this moment."""
        self._marked = self.read()

    def state(self) -> dict[str, Any]:
        """The times at the last `mark`, in JSON values."""
        return {"set_up_s": self._marked.set_up, "evaluation_s": self._marked.evaluation, "total_s": self._marked.total}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Add what earlier starts took, as `state` gave it."""
        self.set_up += state["set_up_s"]
        self.evaluation += state["evaluation_s"]
        self._earlier += state["total_s"]

    def stop(self) -> None:
        """The run is done, and its summary is about to be shown."""
        self._ended = time.perf_counter()

    def read(self) -> Times:
        """Everything until now."""
        return Times(self.set_up, self.evaluation, self.total)
