"""The time that a run may take (`run.max_hours`): is there enough left for another step and for saving?"""

from __future__ import annotations

from dataclasses import dataclass, field

from reasoner.errors import OutOfTimeError
from reasoner.monitoring.format import duration

RECENT = 20
"""laps whose longest is expected of the next one"""
SPARE_S = 20.0
"""seconds for ending: samplers and workers that close, files that are written"""


@dataclass
class Deadline:
    """When a run must begin to end.

    The next lap is expected to take as long as the longest of the last ones, evaluations and checkpoints in it
    included; what is left must be enough for that, twice the last checkpoint's time, and the spare seconds.
    """

    max_hours: float | None
    """from the start of the process; None: no limit"""
    _laps: list[float] = field(default_factory=list)
    _lap_began: float | None = None

    def next_lap(self, now: float, save_s: float) -> None:
        """Another lap is about to begin.

        Args:
            now: seconds since the start.
            save_s: seconds that the last checkpoint took.

        Raises:
            OutOfTimeError: it may not end in time.
        """
        if self._lap_began is not None:
            self._laps = [*self._laps, now - self._lap_began][-RECENT:]
        self._lap_began = now
        if self.max_hours is None:
            return
        needed = max(self._laps, default=0.0) + 2 * save_s + SPARE_S
        if now + needed > 3600 * self.max_hours:
            raise OutOfTimeError(
                f"{duration(now)} of run.max_hours = {self.max_hours:g} have passed; another step and saving may take "
                f"{duration(needed)}"
            )
