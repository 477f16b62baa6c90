"""Numbers, times and trends as short text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Literal

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*#@"


def number(value: float, unit: str) -> str:
    """A value in its unit, with as many digits as one reads: `25%`, `2.5%`, `71 tokens`, `0.412`, `1.2e-05`."""
    if not math.isfinite(value):
        return str(value)
    match unit:
        case "share":
            return f"{100 * value:.{0 if abs(value) >= 0.1 or value == 0 else 1}f}%"
        case "tokens" | "tokens/s":
            return f"{value:,.0f} {unit}"
        case "s":
            return duration(value)
        case "GiB":
            return f"{value:.1f} GiB"
        case "reward":
            return f"{value:.3f}"
        case "count":
            return f"{value:.0f}"
        case _:
            return f"{value:.3g}"


def interval(value: float, low: float | None, high: float | None, unit: str, signed: bool = False) -> str:
    """`12.5% [5.9, 24.7]`; with a sign for changes, shares then in points: `+10.4 [-2.1, +22.9]`."""
    factor = 100.0 if unit == "share" else 1.0
    digits = {"share": 1, "tokens": 1, "nats": 3, "number": 3}.get(unit, 2)
    sign = "+" if signed else ""

    def text(part: float) -> str:
        rounded = round(factor * part, digits) + 0.0  # no "-0.0"
        return f"{rounded:{sign}.{digits}f}"

    percent = "%" if unit == "share" and not signed else ""
    bounds = "" if low is None or high is None else f" [{text(low)}, {text(high)}]"
    return f"{text(value)}{percent}{bounds}"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `6:05`, `1:02:03`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def size(count: int) -> str:
    """Bytes in powers of 1000: `812 B`, `54 kB`, `1.2 GB`."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.{1 if value < 10 and units[0] != 'B' else 0}f} {units[0]}"


def age(seconds: float) -> str:
    """How long ago, in one unit: `40 s`, `12 min`, `5 h`, `3 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """Values from lowest to highest as blocks, oldest left; more than `width` are averaged. Not finite: a gap."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    points = _squeeze(values, width)
    finite = [point for point in points if math.isfinite(point)]
    if not finite:
        return " " * len(points)
    low, span = min(finite), max(finite) - min(finite)
    return "".join(
        " " if not math.isfinite(point) else blocks[round((point - low) / span * 7)] if span else blocks[3]
        for point in points
    )


def _squeeze(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [len(values) * i // width for i in range(width + 1)]
    return [fmean(values[start:end]) for start, end in pairwise(edges)]


class Trend:
    """A series that grows, squeezed to as many points as fit: that takes no longer for a longer series."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.first = self.last = math.nan
        self._sums = [0]
        """of the first n values in units of 2**-80, those that are not finite left out: exact, so that means of equal
        values are equal"""
        self._gaps = [0]
        """how many of the first n values are not finite"""
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._sums) - 1

    def append(self, value: float) -> None:
        """The next value; NaN where there is none."""
        if not len(self):
            self.first = value
        self.last = value
        above, below = value.as_integer_ratio() if math.isfinite(value) else (0, 1)
        self._gaps.append(self._gaps[-1] + (not math.isfinite(value)))
        self._sums.append(self._sums[-1] + (above << 80) // below)  # last: another thread may draw meanwhile

    def points(self, width: int) -> list[float]:
        """At most `width` means of neighbouring values; NaN where one of them is not finite."""
        count = min(width, len(self))
        edges = [len(self) * point // count for point in range(count + 1)] if count else []
        return [
            math.nan
            if self._gaps[end] > self._gaps[start]
            else (self._sums[end] - self._sums[start]) / ((end - start) << 80)
            for start, end in pairwise(edges)
        ]


Direction = Literal["rose", "fell", "within noise", "too few steps"]


def thirds(values: Sequence[float]) -> tuple[float, float, Direction]:
    """Means of the first and the last third of the steps, and whether they differ by more than two standard errors."""
    finite = [value for value in values if math.isfinite(value)]
    size = max(1, len(finite) // 3)
    if not finite:
        return math.nan, math.nan, "too few steps"
    first, last = finite[:size], finite[-size:]
    change = fmean(last) - fmean(first)
    if size < 2:
        return fmean(first), fmean(last), "too few steps"
    error = math.sqrt((_variance(first) + _variance(last)) / size)
    if abs(change) <= 2 * error:
        return fmean(first), fmean(last), "within noise"
    return fmean(first), fmean(last), "rose" if change > 0 else "fell"


def _variance(values: Sequence[float]) -> float:
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
