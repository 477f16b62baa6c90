"""Who worked when: one row per part of the run, the last steps one after the other, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from reasoner.monitoring.format import duration
from reasoner.monitoring.timer import LANES, Lane, StepTimeline
from reasoner.report.charts.scale import tick_label, value_scale

STEPS = 6
"""that are drawn, the last ones"""
WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 900, 84, 12, 20, 22, 26
COLOURS: Mapping[Lane, int] = {
    "sampler": 0,
    "environment": 7,
    "scoring": 1,
    "learner": 2,
    "handover": 3,
    "checkpoint": 5,
}
"""of the palette: those of the stages of the same name (`reasoner.monitoring.summary.PHASES`)"""
THINNEST = 0.8
"""width of a span that is too short to be seen"""


def timeline_chart(steps: Sequence[StepTimeline]) -> str:
    """The last steps on one axis of seconds; what happens between two steps, such as an evaluation, is left out."""
    steps = steps[-STEPS:]
    lanes = [lane for lane in LANES if any(lane in step.lanes for step in steps)]
    height = TOP + ROW * len(lanes) + BOTTOM
    x = value_scale([0.0, sum(step.seconds for step in steps)], "s", LEFT, WIDTH - RIGHT)
    tick_step = x.ticks[1] - x.ticks[0] if len(x.ticks) > 1 else 1.0
    floor = height - BOTTOM
    body = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{floor}"/>'
        f'<text class="tick" x="{x(tick):.1f}" y="{floor + 16}" text-anchor="middle">'
        f"{escape(tick_label(tick, 's', tick_step))} s</text>"
        for tick in x.ticks
    ]
    for row, lane in enumerate(lanes):
        middle = TOP + ROW * (row + 0.5)
        body.append(f'<text class="tick" x="{LEFT - 8}" y="{middle}" dy=".32em" text-anchor="end">{LANES[lane]}</text>')
    begins = 0.0
    for step in steps:
        left = x(begins)
        body.append(f'<line class="axis" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP - 14}" y2="{floor}"/>')
        body.append(f'<text class="tick" x="{left + 4:.1f}" y="{TOP - 5}">step {step.step}</text>')
        for row, lane in enumerate(lanes):
            for start, end in step.lanes.get(lane, ()):
                wide = max(x(begins + end) - x(begins + start), THINNEST)
                body.append(
                    f'<rect class="bar c{COLOURS[lane]}" x="{x(begins + start):.1f}" y="{TOP + ROW * row + 4}" '
                    f'width="{wide:.1f}" height="{ROW - 8}"><title>step {step.step}, {LANES[lane]}: '
                    f"{duration(end - start)} from {start:.1f} s</title></rect>"
                )
        begins += step.seconds
    about = "; ".join(
        f"{LANES[lane]} {100 * sum(step.busy(lane) * step.seconds for step in steps) / (begins or 1.0):.0f}%"
        for lane in lanes
    )
    label = f"Who worked when, steps {steps[0].step} to {steps[-1].step}, share of the time: {about}"
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(body)}</svg>"
    )
