"""The metrics of all steps so far, in little memory.

A dict of 80 metrics takes about 13 KiB: its table, a Python float for each number and a string for each name. Here a
step has its numbers as an array, and steps with the same names share these: 0.7 KiB. A run of 10,000 steps that keeps
what its alarms look at and what it sums up at its end would otherwise take 30 KiB for every step.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import overload


class MetricHistory(Sequence[dict[str, float]]):
    """Like a list of dicts that can only grow; what is taken out is a new dict.

    >>> history = MetricHistory([{"reward/mean": 0.5}])
    >>> history.append({"reward/mean": 0.75, "gap/max": 1e-6})
    >>> history[-1]["reward/mean"], len(history)
    (0.75, 2)
    """

    def __init__(self, steps: Iterable[Mapping[str, float]] = ()) -> None:
        """With the metrics of the steps that there were before."""
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        """every combination of names that there was, once"""
        self._steps: list[tuple[tuple[str, ...], array[float]]] = []
        for metrics in steps:
            self.append(metrics)

    def append(self, metrics: Mapping[str, float]) -> None:
        """Add a step."""
        names = tuple(metrics)
        self._steps.append((self._names.setdefault(names, names), array("d", metrics.values())))

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> dict[str, float]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, float]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, float] | list[dict[str, float]]:
        if isinstance(index, slice):
            return [dict(zip(*step, strict=True)) for step in self._steps[index]]
        return dict(zip(*self._steps[index], strict=True))
