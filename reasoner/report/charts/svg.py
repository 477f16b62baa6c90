"""Charts as SVG text: lines with intervals, stacked bars. Colours come from classes, so that one drawing fits a light
and a dark page; `standalone` adds what a file needs to be looked at alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from reasoner.evaluation.metrics import Difference
from reasoner.monitoring.format import number
from reasoner.report.charts.scale import Scale, step_scale, tick_label, value_scale
from reasoner.report.charts.series import SMOOTH_FROM, Series, smooth, thin
from reasoner.report.panels import Panel

WIDTH, HEIGHT = 440, 216
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 30
COLOURS = 8
"""of the palette; more series take them again, dashed"""
DOTS_UP_TO = 40
"""points of a curve that are marked"""
TITLE_HEIGHT, LEGEND_HEIGHT = 26, 18


@dataclass(frozen=True, slots=True)
class Bars:
    """Stacked bars: one per step, one layer per part."""

    key: str
    title: str
    parts: tuple[Series, ...]
    """with the same steps"""


def lines(panel: Panel, *, standalone: bool = False) -> str:
    """A panel as a chart of lines."""
    curves = [thin(curve) for curve in panel.series]
    drawn = [smooth(curve) if len(curve.steps) >= SMOOTH_FROM else curve for curve in curves]
    x = steps_of(curves)
    y = value_scale(_reach(panel, curves, drawn), panel.unit, HEIGHT - BOTTOM, TOP)
    body = [*_grid(x, y, panel)]
    for raw, curve in zip(curves, drawn, strict=True):
        body += _band(curve, x, y, panel.unit == "share")
        body += [] if raw is curve else [f'<path class="line raw {_colour(raw)}" d="{_path(raw, x, y)}"/>']
    for curve in drawn:
        body += [*_whiskers(curve, x, y), f'<path class="line {_colour(curve)}" d="{_path(curve, x, y)}"/>']
        body += _dots(curve, x, y)
    return _svg(body, panel.title, describe(panel), panel.series, standalone)


def steps_of(curves: Iterable[Series]) -> Scale:
    """The horizontal axis of a chart of these lines, as they are drawn (`thin`)."""
    steps = [step for curve in curves for step in curve.steps]
    return step_scale(min(steps, default=0), max(steps, default=1), LEFT, WIDTH - RIGHT)


def bars(chart: Bars, *, standalone: bool = False) -> str:
    """Stacked bars over the steps."""
    parts = [thin(part, 60) for part in chart.parts]
    steps = parts[0].steps
    sums = [sum(part.values[at] for part in parts if math.isfinite(part.values[at])) for at in range(len(steps))]
    y = value_scale(sums, "s", HEIGHT - BOTTOM, TOP)
    wide = (WIDTH - LEFT - RIGHT) / max(len(steps), 1)
    x = step_scale(steps[0], steps[-1], LEFT + wide / 2, WIDTH - RIGHT - wide / 2)
    body = [*_grid(x, y, Panel("", "", "s", ()))]
    for at in range(len(steps)):
        below = 0.0
        for part in parts:
            value = part.values[at]
            if math.isfinite(value) and value > 0:
                top, height = y(below + value), y(below) - y(below + value)
                body.append(
                    f'<rect class="bar {_colour(part)}" x="{LEFT + wide * (at + 0.1):.1f}" y="{top:.1f}" '
                    f'width="{wide * 0.8:.1f}" height="{height:.1f}"/>'
                )
                below += value
    about = f"{chart.title}: {', '.join(part.label for part in parts)}, seconds by step"
    return _svg(body, chart.title, about, chart.parts, standalone)


def change(difference: Difference, reach: float) -> str:
    """A change with its interval as a whisker around the line of no change; an empty text where there is no interval.

    Args:
        reach: the change at either end.
    """
    if difference.low is None or difference.high is None:
        return ""
    x = Scale(-reach, reach, 5, 195, ())
    low, high, dot = (f"{x(value):.1f}" for value in (difference.low, difference.high, difference.change))
    label = f"change {difference.change:+.3g}, 95% interval {difference.low:+.3g} to {difference.high:+.3g}"
    return (
        f'<svg class="change-plot" viewBox="0 0 200 18" role="img" aria-label="{label}">'
        '<line class="none" x1="100" x2="100" y1="0" y2="18"/>'
        f'<path class="reach" d="M{low} 9H{high}M{low} 5v8M{high} 5v8"/>'
        f'<circle class="dot" cx="{dot}" cy="9" r="3.4"/></svg>'
    )


def describe(panel: Panel) -> str:
    """What a chart shows, for those who cannot see it."""
    parts = []
    for curve in panel.series:
        known = curve.finite
        if known:
            first, last = number(known[0], panel.unit), number(known[-1], panel.unit)
            parts.append(f"{curve.label} from {first} to {last}")
    return f"{panel.title} over the steps: {'; '.join(parts) or 'no values'}"


def _reach(panel: Panel, curves: Sequence[Series], drawn: Sequence[Series]) -> list[float]:
    """Everything that must be inside: values, whiskers, and bands as far as they do not dwarf the curve."""
    values = [value for curve in curves for value in (*curve.values, *curve.low, *curve.high)]
    for curve in drawn:
        for value, half in zip(curve.values, curve.half, strict=False):
            if math.isfinite(value) and math.isfinite(half):
                values += [value - half, value + half]
    return [min(max(value, 0.0), 1.0) for value in values] if panel.unit == "share" else values


def _grid(x: Scale, y: Scale, panel: Panel) -> Iterable[str]:
    step = y.ticks[1] - y.ticks[0] if len(y.ticks) > 1 else 1.0
    for tick in y.ticks:
        at = f"{y(tick):.1f}"
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">' + (
            f"{escape(tick_label(tick, panel.unit, step))}</text>"
        )
    bottom = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    yield f'<text class="tick" x="{LEFT - 12}" y="{bottom + 16}" text-anchor="end">step</text>'
    for tick in x.ticks:
        yield f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'


def _band(curve: Series, x: Scale, y: Scale, share: bool) -> list[str]:
    """The interval around a curve, one polygon per stretch without gaps."""
    polygons = []
    upper: list[str] = []
    lower: list[str] = []
    for step, value, half in [*zip(curve.steps, curve.values, curve.half, strict=False), (0.0, math.nan, math.nan)]:
        if math.isfinite(value) and math.isfinite(half):
            low, high = (max(value - half, 0.0), min(value + half, 1.0)) if share else (value - half, value + half)
            upper.append(f"{x(step):.1f},{y(high):.1f}")
            lower.append(f"{x(step):.1f},{y(low):.1f}")
        elif upper:
            polygons.append(f'<polygon class="band {_colour(curve)}" points="{" ".join(upper + lower[::-1])}"/>')
            upper, lower = [], []
    return polygons


def _whiskers(curve: Series, x: Scale, y: Scale) -> list[str]:
    return [
        f'<path class="whisker {_colour(curve)}" d="M{x(step):.1f} {y(low):.1f}V{y(high):.1f}'
        f'M{x(step) - 3:.1f} {y(low):.1f}h6M{x(step) - 3:.1f} {y(high):.1f}h6"/>'
        for step, low, high in zip(curve.steps, curve.low, curve.high, strict=False)
        if math.isfinite(low) and math.isfinite(high)
    ]


def _dots(curve: Series, x: Scale, y: Scale) -> list[str]:
    if len(curve.steps) > DOTS_UP_TO:
        return []
    return [
        f'<circle class="dot {_colour(curve)}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.4"/>'
        for step, value in zip(curve.steps, curve.values, strict=True)
        if math.isfinite(value)
    ]


def _path(curve: Series, x: Scale, y: Scale) -> str:
    """`M` after every gap, `L` otherwise."""
    parts = []
    pen_down = False
    for step, value in zip(curve.steps, curve.values, strict=True):
        if math.isfinite(value):
            parts.append(f"{'L' if pen_down else 'M'}{x(step):.1f} {y(value):.1f}")
        pen_down = math.isfinite(value)
    return "".join(parts)


def _colour(curve: Series) -> str:
    dashed = " dashed" if curve.colour >= COLOURS else ""
    return f"c{curve.colour % COLOURS} s{curve.colour}{dashed}"


def _svg(body: Iterable[str], title: str, about: str, legend: Sequence[Series], standalone: bool) -> str:
    label = f'role="img" aria-label="{escape(about)}"'
    if not standalone:
        return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" {label}>{"".join(body)}</svg>'
    named = [part for part in legend if part.label] if len(legend) > 1 else []
    shift = TITLE_HEIGHT + LEGEND_HEIGHT * len(named)
    height = HEIGHT + shift
    head = [f'<text class="title" x="{LEFT}" y="17">{escape(title)}</text>']
    for row, part in enumerate(named):
        at = TITLE_HEIGHT + LEGEND_HEIGHT * row + 8
        head.append(f'<line class="line {_colour(part)}" x1="{LEFT}" x2="{LEFT + 16}" y1="{at}" y2="{at}"/>')
        head.append(f'<text class="tick" x="{LEFT + 22}" y="{at}" dy=".32em">{escape(part.label)}</text>')
    style = (files("reasoner.report") / "assets" / "plot.css").read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" '
        f'height="{2 * height}" {label}><style>{style}</style><rect class="paper" width="100%" height="100%"/>'
        f'{"".join(head)}<g transform="translate(0 {shift})">{"".join(body)}</g></svg>\n'
    )
