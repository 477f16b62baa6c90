"""What the report computes and draws: intervals, thinning, axes, SVG, what differs between runs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner.monitoring.metrics import MetricUnit
from reasoner.report.charts import svg
from reasoner.report.charts.scale import step_scale, tick_label, value_scale
from reasoner.report.charts.series import Series, half_width, smooth, thin
from reasoner.report.charts.svg import Bars
from reasoner.report.choose import RolloutFile, choose, spread
from reasoner.report.collect import ranges
from reasoner.report.panels import Panel
from reasoner.runs.rollouts import GroupIndex


def curve(*values: float, label: str = "a", colour: int = 0, half: float | None = None) -> Series:
    steps = tuple(map(float, range(1, len(values) + 1)))
    return Series(label, colour, steps, values, (half,) * len(values) if half is not None else ())


def test_half_the_interval_of_a_mean_over_problems() -> None:
    # t_{0.975} of 3 degrees of freedom is 3.182446; the standard deviation of 1, 2, 3, 4 is 1.290994.
    assert half_width([1, 2, 3, 4]) == pytest.approx(3.182446 * 1.290994 / 2, rel=1e-5)
    assert half_width([0.5, 0.5]) == 0.0
    assert math.isnan(half_width([1.0]))


def test_thin_and_smooth_keep_means_and_gaps() -> None:
    short = thin(curve(*range(1000), half=1.0), 10)
    assert len(short.steps) == 10
    assert sum(short.values) / 10 == pytest.approx(499.5)
    assert short.half[0] == pytest.approx(1 / math.sqrt(100))  # the mean of 100 independent steps
    assert thin(short, 10) is short
    straight = smooth(curve(*range(100)))
    assert straight.values[50] == pytest.approx(50.0)
    gap = smooth(curve(*[1.0] * 50, math.nan, *[1.0] * 50))
    assert [at for at, value in enumerate(gap.values) if math.isnan(value)] == [50]
    assert gap.values[49] == 1.0
    assert all(math.isnan(value) for value in thin(curve(*[math.nan] * 20), 4).values)
    assert thin(curve(1.0, math.inf, math.nan, 3.0, 4.0, math.nan), 2).values == (1.0, 3.5)  # what is known counts


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=0, max_size=20),
    st.sampled_from(["share", "tokens", "reward", "nats", "number"]),
)
def test_every_value_is_inside_the_axis_and_ticks_are_told_apart(values: list[float], unit: MetricUnit) -> None:
    scale = value_scale(values, unit, 200.0, 0.0)
    for value in [*values, *scale.ticks]:
        assert -1e-6 <= scale(value) <= 200 + 1e-6
    assert len(scale.ticks) <= 8
    step = scale.ticks[1] - scale.ticks[0] if len(scale.ticks) > 1 else 1.0
    labels = [tick_label(tick, unit, step) for tick in scale.ticks]
    assert len(set(labels)) == len(labels)


def test_ticks_around_a_small_constant_are_told_apart() -> None:
    for value in (1.1e-5, -1.1125369292536007e-308):
        ticks = value_scale([value, value], "number", 200.0, 0.0).ticks
        assert len({tick_label(tick, "number", ticks[1] - ticks[0]) for tick in ticks}) == len(ticks) > 1


def test_labels_of_ticks() -> None:
    assert [tick_label(v, "share", 0.2) for v in (0.0, 0.2)] == ["0%", "20%"]
    assert tick_label(0.5, "share", 0.1) == "50%"
    assert tick_label(0.005, "share", 0.001) == "0.5%"
    assert tick_label(20_000, "tokens", 10_000) == "20k"
    assert tick_label(2e-6, "nats", 1e-6) == "2.0e-6"
    assert tick_label(0.0, "nats", 1e-6) == "0"
    assert tick_label(-0.0, "reward", 0.5) == "0.0"
    assert step_scale(1, 12, 0, 1).ticks == (2, 4, 6, 8, 10, 12)
    assert step_scale(7, 7, 0, 1).ticks == (7,)


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def found(text: str, kind: str) -> list[ElementTree.Element]:
    return [each for each in parsed(text).iter() if each.get("class", "").split()[:1] == [kind]]


def test_a_gap_breaks_the_line_and_the_band() -> None:
    panel = Panel("k", "Reward", "reward", (curve(0.1, 0.2, math.nan, 0.3, 0.4, half=0.05),))
    text = svg.lines(panel)
    (line,) = found(text, "line")
    assert (line.get("d") or "").count("M") == 2
    assert len(found(text, "band")) == 2
    assert len(found(text, "dot")) == 4


def test_many_steps_are_smoothed_and_the_drawing_stays_small() -> None:
    panel = Panel("k", "Reward", "reward", (curve(*[n % 7 for n in range(100_000)]),))
    text = svg.lines(panel)
    assert len(text) < 20_000
    assert ["raw" in line.get("class", "") for line in found(text, "line")] == [True, False]


@pytest.mark.parametrize("values", [(), (0.0,), (math.nan,), (1.0, 1.0, 1.0), (-1e-9, 1e9)])
def test_any_curve_can_be_drawn(values: tuple[float, ...]) -> None:
    text = svg.lines(Panel("k", "x", "number", (curve(*values, half=0.1),)), standalone=True)
    assert parsed(text).get("aria-label")
    assert "nan" not in re.sub(r'aria-label="[^"]*"', "", text)


def test_a_file_has_title_legend_and_style_and_hostile_names_stay_text() -> None:
    evil = "</text><script>alert(1)</script>"
    panel = Panel("k", evil, "share", (curve(0.0, 1.0, label=evil), curve(1.0, 0.0, label="b", colour=9)))
    text = svg.lines(panel, standalone=True)
    assert "<script" not in text
    root = parsed(text)
    assert next(each.text for each in root.iter() if each.tag.endswith("text")) == evil
    assert any(each.tag.endswith("style") for each in root)
    assert "c1 s9 dashed" in text
    assert "xmlns" not in svg.lines(panel)  # inside a page it needs none


def test_bars_stack_to_the_sum() -> None:
    chart = Bars("k", "Times", (curve(1.0, 2.0, label="a"), curve(3.0, math.nan, label="b", colour=1)))
    bars = found(svg.bars(chart), "bar")
    assert len(bars) == 3
    heights = [float(bar.get("height") or 0) for bar in bars]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)


def test_whole_groups_are_chosen_evenly_within_the_budget() -> None:
    files = [
        RolloutFile(Path(f"{n}"), True, n, tuple(GroupIndex(8 * g, 8, 100, {}) for g in range(4))) for n in range(10)
    ]
    assert len(choose(files, 10_000)) == 40
    two = choose(files, 2_500)
    assert len(two) == 25
    assert {sum(each.file is file for each in two) for file in files} == {2, 3}
    few = choose(files, 350)
    assert [each.file.step for each in few] == [0, 4, 9]
    assert len(choose(files, 1)) == 1
    assert choose([], 100) == []
    assert spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(100, 1) == [0]


def test_ranges_of_steps() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
