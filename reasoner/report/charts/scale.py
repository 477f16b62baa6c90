"""Axes: a range with round ticks, and numbers as short labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from reasoner.monitoring.metrics import MetricUnit

FROM_ZERO = ("share", "tokens", "tokens/s", "s", "GiB", "count")
"""units whose axis starts at 0"""


@dataclass(frozen=True, slots=True)
class Scale:
    """Data values on pixels."""

    low: float
    high: float
    start: float
    """pixel of `low`"""
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def value_scale(values: Iterable[float], unit: MetricUnit, start: float, end: float) -> Scale:
    """A range that holds all values, with two to six round ticks inside it."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if unit in FROM_ZERO:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.1 or 1.0
        low, high = (0.0, high + room) if low >= 0 else (low - room, high + room)
    room = 0.04 * (high - low)
    bottom = low if low == 0.0 else low - room
    top = high if unit == "share" and high == 1.0 else high + room
    step = _step((top - bottom) / 5)
    ticks = range(math.ceil(bottom / step - 1e-9), math.floor(top / step + 1e-9) + 1)
    return Scale(bottom, top, start, end, tuple(step * tick for tick in ticks))


def step_scale(first: float, last: float, start: float, end: float) -> Scale:
    """Training steps: whole numbers only."""
    if first == last:
        return Scale(first - 1, last + 1, start, end, (first,))
    step = max(1.0, _step((last - first) / 8))
    ticks = [tick * step for tick in range(math.ceil(first / step), math.floor(last / step) + 1)]
    return Scale(first, last, start, end, tuple(ticks))


def tick_label(value: float, unit: MetricUnit, step: float) -> str:
    """A tick as text, with the digits that its neighbours need."""
    if unit == "share":
        return f"{100 * value:.{_digits(100 * step)}f}%"
    if abs(value) >= 10_000:
        return f"{value / 1000:.{_digits(step / 1000)}f}k"
    if 0 < max(abs(value), step) < 1e-3:
        if abs(value) < step / 2:
            return "0"
        digits = max(1, math.floor(math.log10(abs(value)) + 1e-9) - math.floor(math.log10(step) + 1e-9))
        return f"{value:.{digits}e}".replace("e-0", "e-")
    return f"{value + 0.0:.{_digits(step)}f}"


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0


def _step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
