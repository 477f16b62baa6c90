"""What both sides of bench_learning.py do after every training step: note it, and know when to save and to stop.

Standard library only: the TRL side imports it too, in an environment without this project.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Clock:
    """Counts the seconds of one side from the start of its process, its imports and loading included."""

    def __init__(self, setting: Mapping[str, Any], file: Path) -> None:
        """
        Args:
            setting: `started` (Unix time), `target`, `window`, `mark_s`, `limit_s` and `steps`.
            file: gets a line per step.
        """
        self._setting = setting
        self._file = file
        self._ends: list[float] = []
        self._shares: list[float] = []
        self._begins = 0.0

    def begin(self) -> None:
        """The first step begins now."""
        self._begins = time.time() - self._setting["started"]

    def step(self, right: float, tokens: int, save: Callable[[], None]) -> bool:
        """Note a step that has just ended; whether the side has done all that was asked of it.

        It has when the target is passed and the mark too, or the steps or the limit are over.

        Args:
            right: share of right responses of the step.
            tokens: sampled.
            save: keeps the weights for the comparison after equal time. Called after a step that may be the last one
                before the mark; only the last call counts.
        """
        now = time.time() - self._setting["started"]
        before = self._ends[-1] if self._ends else self._begins
        self._ends.append(now)
        self._shares.append(right)
        row = {"step": len(self._ends), "seconds": now, "began": before, "right": right, "tokens": tokens}
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        over = now >= self._setting["limit_s"] or len(self._ends) == self._setting["steps"]
        mark = self._setting["mark_s"]
        if now <= mark and (over or now + 2 * (now - before) > mark):
            save()
        passed = first_passing(self._shares, self._setting["window"], self._setting["target"]) is not None
        return over or (passed and now >= mark)


def first_passing(shares: Sequence[float], window: int, target: float) -> int | None:
    """The first step, counted from 1, at which the mean over the last `window` steps is above the target.

    >>> first_passing([0.0, 1.0, 0.4, 0.8], 2, 0.5)
    3
    """
    for end in range(window, len(shares) + 1):
        if sum(shares[end - window : end]) / window > target:
            return end
    return None
