"""Factors of a term's weight over the run."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner.gro.spec.schedules import Constant, MetricSwitch, Ramp, Schedule, Switch, as_step, factor, mistake


def _over(spec: Schedule, steps: int) -> list[float]:
    return [factor(spec, step, steps, ()) for step in range(1, steps + 1)]


def test_a_constant_is_one() -> None:
    assert _over(Constant(), 3) == [1.0, 1.0, 1.0]


def test_a_line_between_two_steps_and_constant_outside() -> None:
    assert _over(Ramp(first=2, last=6, before=1.0, after=0.0), 8) == [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]


def test_half_a_cosine_between_two_steps() -> None:
    result = _over(Ramp("cosine", 1, 5, before=0.5, after=2.5), 6)
    assert result == pytest.approx([0.5, 1.5 - math.sqrt(0.5), 1.5, 1.5 + math.sqrt(0.5), 2.5, 2.5], rel=1e-12)


@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0, 10),
    st.floats(0, 10),
    st.integers(1, 60),
)
def test_a_ramp_stays_between_its_ends_and_meets_them(
    kind: str, first: int, length: int, before: float, after: float, step: int
) -> None:
    spec = Ramp(kind, first, first + length, before, after)  # type: ignore[arg-type]
    low, high = min(before, after), max(before, after)
    result = factor(spec, step, 60, ())
    assert low - 1e-12 <= result <= high + 1e-12
    if step <= first:
        assert result == before
    if step >= first + length:
        assert result == pytest.approx(after, rel=1e-12, abs=1e-12)


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 10), st.floats(0, 10))
def test_a_cosine_and_a_line_meet_in_the_middle(first: int, half: int, before: float, after: float) -> None:
    line, cosine = (
        factor(Ramp(kind, first, first + 2 * half, before, after), first + half, 99, ())
        for kind in ("linear", "cosine")
    )
    assert line == pytest.approx((before + after) / 2, rel=1e-12, abs=1e-12)
    assert cosine == pytest.approx(line, rel=1e-12, abs=1e-12)


def test_a_switch_keeps_its_step_and_changes_at_the_next() -> None:
    assert _over(Switch(at=2, before=1.0, after=0.25), 4) == [1.0, 1.0, 0.25, 0.25]


def test_a_number_below_one_is_a_share_of_the_run_in_whole_steps_from_the_first() -> None:
    assert as_step(0.25, 40) == 10.0
    assert as_step(0.26, 10) == 3.0
    assert as_step(0.29, 100) == 29.0  # 0.29 * 100 is a little less
    assert as_step(0.01, 10) == as_step(0.0, 40) == as_step(1, 40) == 1.0
    assert _over(Switch(at=0.25), 8) == [1.0] * 2 + [0.0] * 6
    assert _over(Switch(at=0.01), 10) == _over(Switch(at=0.0), 10) == [1.0] + [0.0] * 9
    assert _over(Ramp(first=0.0, last=0.5), 10) == _over(Ramp(first=1, last=5), 10)
    assert _over(Ramp(first=0.0, last=0.5), 10)[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]


@given(st.integers(1, 99))
def test_a_switch_at_so_many_per_cent_comes_after_that_step_of_a_hundred(percent: int) -> None:
    assert _over(Switch(at=percent / 100), 100) == [1.0] * percent + [0.0] * (100 - percent)


def test_a_run_too_short_for_its_schedule() -> None:
    assert mistake(Switch(at=0.25), 2) == ""
    assert "at = 0.25 is not before the run's last step, 1" in mistake(Switch(at=0.25), 1)
    assert mistake(Ramp(), 4) == ""
    assert "steps 1 and 1" in mistake(Ramp(), 1)


SHARE = "groups/no_credit"


@pytest.mark.parametrize(
    ("spec", "history", "expected"),
    [
        (MetricSwitch(SHARE, above=0.7), [], 1.0),
        (MetricSwitch(SHARE, above=0.7), [{SHARE: 0.7}], 1.0),
        (MetricSwitch(SHARE, above=0.7), [{SHARE: 0.71}], 0.0),
        (MetricSwitch(SHARE, above=0.7), [{SHARE: 0.71}, {SHARE: 0.1}], 0.0),
        (MetricSwitch(SHARE, above=0.7), [{"other": 0.9}], 1.0),
        (MetricSwitch(SHARE, above=0.7), [{SHARE: math.nan}], 1.0),
        (MetricSwitch(SHARE, below=0.2), [{SHARE: 0.2}], 1.0),
        (MetricSwitch(SHARE, below=0.2), [{SHARE: 0.9}, {SHARE: 0.1}], 0.0),
        (MetricSwitch(SHARE, below=0.2, before=0.5, after=2.0), [{SHARE: 0.1}], 2.0),
        (MetricSwitch(SHARE, above=0.0), [{SHARE: 0.1}], 0.0),
        (MetricSwitch(SHARE, below=0.0), [{SHARE: -0.1}], 0.0),
    ],
)
def test_a_switch_on_a_metric_is_for_good(
    spec: MetricSwitch, history: list[Mapping[str, float]], expected: float
) -> None:
    assert factor(spec, len(history) + 1, 100, history) == expected


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0, 1))
def test_a_switch_on_a_metric_never_goes_back(values: list[float], bound: float) -> None:
    spec = MetricSwitch(SHARE, above=bound)
    history = [{SHARE: value} for value in values]
    result = [factor(spec, step + 1, 100, history[:step]) for step in range(len(history) + 1)]
    assert result == sorted(result, reverse=True)
    assert (result[-1] == 0.0) == any(value > bound for value in values)


@pytest.mark.parametrize(
    "spec",
    [
        Constant(),
        Ramp(),
        Ramp("cosine", 3, 9, 1.0, 0.1),
        Switch(),
        Switch(at=9),
        MetricSwitch(SHARE, above=0.7),
        MetricSwitch(SHARE, below=0.0),
    ],
)
def test_schedules_that_fit_a_run_of_ten_steps(spec: Schedule) -> None:
    assert mistake(spec, 10) == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Ramp(first=5, last=5), ["first = 5", "last = 5", "before"]),
        (Ramp(first=0.5, last=3), ["first = 0.5", "last = 3", "steps 5 and 3"]),
        (Ramp(first=-1, last=3), ["first", "at least 0"]),
        (Ramp(before=-0.1), ["before", "at least 0"]),
        (Ramp(after=-0.1), ["after", "at least 0"]),
        (Switch(at=10), ["at = 10", "last step, 10", "never"]),
        (Switch(at=-1), ["at", "at least 0"]),
        (Switch(after=-1.0), ["after", "at least 0"]),
        (MetricSwitch(SHARE), ["exactly one", "above", "below", SHARE]),
        (MetricSwitch(SHARE, above=0.7, below=0.1), ["exactly one", SHARE]),
        (MetricSwitch(SHARE, above=0.7, before=-1.0), ["before", "at least 0"]),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said(spec: Schedule, words: list[str]) -> None:
    message = mistake(spec, 10)
    assert [word for word in words if word not in message] == []


def test_schedules_import_no_torch() -> None:
    code = "import sys, reasoner.gro.spec.schedules, reasoner.gro.spec.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
