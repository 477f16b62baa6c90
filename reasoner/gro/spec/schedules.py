"""Factors of a term's weight over the run: lambda_k(step) = weight * factor(schedule, step). Pure, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Constant:
    """1 at every step."""

    kind: Literal["constant"] = "constant"


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `before` at step `first` to `after` at step `last`, along a line or half a cosine; constant outside.

    Steps are counted from 1; a number below 1 is a share of the run's steps.
    """

    kind: Literal["linear", "cosine"] = "linear"
    first: float = 0.0
    last: float = 0.5
    before: float = 0.0
    after: float = 1.0


@dataclass(frozen=True, slots=True)
class Switch:
    """`before` up to step `at`, `after` from the next step on; a number below 1 is a share of the run's steps."""

    kind: Literal["switch"] = "switch"
    at: float = 0.25
    before: float = 1.0
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class MetricSwitch:
    """`before` until a step's metric has passed a bound, `after` from the next step on, for good."""

    metric: str
    """a name of the metrics table: `groups/no_credit`"""
    kind: Literal["metric"] = "metric"
    above: float | None = None
    below: float | None = None
    before: float = 1.0
    after: float = 0.0


Schedule = Constant | Ramp | Switch | MetricSwitch


def factor(spec: Schedule, step: int, steps: int, history: Sequence[Mapping[str, float]]) -> float:
    """The factor at `step` (from 1) of a run of `steps`.

    >>> [factor(Constant(), step, 9, []) for step in (1, 5, 9)]
    [1.0, 1.0, 1.0]
    >>> [factor(Ramp("linear", first=1, last=9), step, 9, []) for step in (1, 5, 9)]
    [0.0, 0.5, 1.0]
    >>> [round(factor(Ramp("cosine", first=1, last=9), step, 9, []), 3) for step in (1, 3, 5, 9)]
    [0.0, 0.146, 0.5, 1.0]
    >>> [factor(Switch(at=5, before=1.0, after=0.5), step, 9, []) for step in (1, 5, 6)]
    [1.0, 1.0, 0.5]
    >>> switch = MetricSwitch("groups/no_credit", above=0.7)
    >>> factor(switch, 2, 9, [{"groups/no_credit": 0.5}]), factor(switch, 3, 9, [{"groups/no_credit": 0.8}])
    (1.0, 0.0)

    Args:
        history: the metrics of the committed steps before; the factor is a function of them, so a resumed run continues
            as it would have.
    """
    match spec:
        case Constant():
            return 1.0
        case Ramp():
            first, last = as_step(spec.first, steps), as_step(spec.last, steps)
            share = min(1.0, max(0.0, (step - first) / (last - first)))
            if spec.kind == "cosine":
                share = (1.0 - math.cos(math.pi * share)) / 2.0
            return spec.before + (spec.after - spec.before) * share
        case Switch():
            return spec.before if step <= as_step(spec.at, steps) else spec.after
        case MetricSwitch():
            return spec.after if any(passed(spec, metrics) for metrics in history) else spec.before


def as_step(number: float, steps: int) -> float:
    """A step number; below 1 a share of the run's steps, rounded to a whole step from 1.

    >>> as_step(12, 80), as_step(0.25, 80), as_step(0.001, 80)
    (12, 20.0, 1.0)
    """
    return number if number >= 1 else max(1.0, float(round(number * steps)))


def mistake(spec: Schedule, steps: int) -> str:
    """What is wrong with a schedule for a run of `steps`; empty: nothing."""
    match spec:
        case Ramp():
            first, last = as_step(spec.first, steps), as_step(spec.last, steps)
            if min(spec.first, spec.last, spec.before, spec.after) < 0:
                return "first, last, before and after must be at least 0"
            if not first < last:
                return f"first = {spec.first:g} must come before last = {spec.last:g} (steps {first:g} and {last:g})"
            if first >= steps:
                return f"first = {spec.first:g} is not before the run's last step, {steps}: it would never begin"
        case Switch():
            if min(spec.at, spec.before, spec.after) < 0:
                return "at, before and after must be at least 0"
            if as_step(spec.at, steps) >= steps:
                return f"at = {spec.at:g} is not before the run's last step, {steps}: the switch would never come"
        case MetricSwitch():
            if (spec.above is None) == (spec.below is None):
                return f"exactly one of above, below is needed for the metric {spec.metric!r}"
            if min(spec.before, spec.after) < 0:
                return "before and after must be at least 0"
        case Constant():
            pass
    return ""


def passed(spec: MetricSwitch, metrics: Mapping[str, float]) -> bool:
    """Whether a step with these metrics passes the bound.

    >>> switch = MetricSwitch("groups/no_credit", above=0.7)
    >>> passed(switch, {"groups/no_credit": 0.8}), passed(switch, {"groups/no_credit": 0.7}), passed(switch, {})
    (True, False, False)
    """
    value = metrics.get(spec.metric)
    if value is None:
        return False
    return (spec.above is not None and value > spec.above) or (spec.below is not None and value < spec.below)
