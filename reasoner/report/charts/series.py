"""Curves: one metric of one run over its steps, with its interval, thinned and smoothed for the eye."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtrit

MOST_POINTS = 400
"""of a drawn curve; more are averaged"""
SMOOTH_FROM = 61
"""points from which on a running mean is drawn over them"""
SMOOTH_SHARE = 25
"""a running mean covers one in so many points"""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve. All sequences have one entry per point."""

    label: str
    colour: int
    """index into the palette"""
    steps: tuple[float, ...]
    values: tuple[float, ...]
    """NaN: a gap"""
    half: tuple[float, ...] = ()
    """half the width of the 95% interval, NaN where there is none; empty: none at all"""
    low: tuple[float, ...] = ()
    """ends of intervals that are not symmetric, drawn as whiskers; empty: none"""
    high: tuple[float, ...] = ()

    @property
    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if math.isfinite(value)]


def series(label: str, colour: int, history: Sequence[Mapping[str, float]], name: str) -> Series:
    """A metric as a curve; a step without it is a gap."""
    steps = tuple(metrics["step"] for metrics in history)
    return Series(label, colour, steps, tuple(metrics.get(name, math.nan) for metrics in history))


def half_width(means: Sequence[float]) -> float:
    """Half the 95% t-interval of a mean over problems: t_{0.975, n-1} s / sqrt(n); NaN for fewer than two."""
    known = [mean for mean in means if math.isfinite(mean)]
    if len(known) < 2:
        return math.nan
    return float(stdtrit(len(known) - 1, 0.975)) * stdev(known) / math.sqrt(len(known))


def thin(curve: Series, most: int = MOST_POINTS) -> Series:
    """At most `most` points, each the mean of its neighbours."""
    count = len(curve.steps)
    if count <= most:
        return curve
    starts = np.array([count * part // most for part in range(most)])

    def squeeze(values: Sequence[float]) -> tuple[float, ...]:
        numbers = np.asarray(values, float)
        known = np.isfinite(numbers)
        with np.errstate(invalid="ignore"):  # no number at all: NaN
            sums = np.add.reduceat(np.where(known, numbers, 0.0), starts)
            return tuple((sums / np.add.reduceat(known, starts, dtype=int)).tolist())

    spans = pairwise([*starts.tolist(), count])
    halves = tuple(_joint(curve.half[start:end]) for start, end in spans) if curve.half else ()
    return replace(curve, steps=squeeze(curve.steps), values=squeeze(curve.values), half=halves)


def smooth(curve: Series) -> Series:
    """The running mean over one in `SMOOTH_SHARE` points. Its interval takes the steps for independent."""
    reach = max(1, len(curve.steps) // SMOOTH_SHARE // 2)
    windows = [slice(max(0, at - reach), at + reach + 1) for at in range(len(curve.steps))]
    values = tuple(
        _mean(curve.values[window]) if math.isfinite(curve.values[at]) else math.nan
        for at, window in enumerate(windows)
    )
    halves = tuple(_joint(curve.half[window]) for window in windows) if curve.half else ()
    return replace(curve, values=values, half=halves)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan


def _joint(halves: Sequence[float]) -> float:
    """Half the interval of a mean of independent means: sqrt(mean of h^2 / n)."""
    known = [half for half in halves if math.isfinite(half)]
    return math.sqrt(fmean(half * half for half in known) / len(halves)) if known else math.nan
