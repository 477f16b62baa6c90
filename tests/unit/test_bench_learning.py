"""The comparison with TRL: when a side saves and stops, and what the page says of sides that learn, or do not."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from scripts import bench_learning
from scripts.learning_clock import Clock, first_passing
from scripts.learning_results import Learnt, Side, add, page, read

SETTING = {
    "trl": "1.16.0",
    "problems_per_step": 4,
    "group_size": 8,
    "max_tokens": 64,
    "temperature": 1.0,
    "clip": 0.2,
    "learning_rate": 2e-5,
    "held_out": 128,
    "trl_options": {},
    "window": 2,
    "target": 0.5,
    "mark_s": 120.0,
}


@pytest.mark.parametrize(
    ("shares", "step"),
    [
        ([], None),
        ([1.0], None),  # the window is not full
        ([0.5, 0.5, 0.5], None),  # it must be passed
        ([0.0, 1.0, 0.0, 0.0, 1.0, 0.2], 6),
        ([0.9, 0.9], 2),
    ],
)
def test_the_target_is_passed_by_the_mean_of_a_full_window(shares: list[float], step: int | None) -> None:
    assert first_passing(shares, 2, 0.5) == step


@pytest.mark.parametrize(
    ("ends", "rights", "steps", "saved", "stops"),
    [
        ([30, 60, 90, 110, 130], [1.0] * 5, 9, [3, 4], 5),  # passed long ago: until the mark
        ([30, 60, 90, 130, 160], [0.0, 0.0, 0.0, 0.0, 1.0], 9, [3], None),  # not passed yet
        ([30, 60, 90, 130, 160, 190], [0.0] * 4 + [0.6, 0.6], 9, [3], 6),
        ([30, 60], [0.0, 0.0], 2, [2], 2),  # no more steps: those weights are kept
        ([130, 400], [0.0, 0.0], 9, [], 2),  # no step ended in time; the limit is over
    ],
)
def test_a_side_keeps_the_weights_of_the_mark_and_stops_when_it_has_passed_both(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: Sequence[float],
    rights: Sequence[float],
    steps: int,
    saved: list[int],
    stops: int | None,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("scripts.learning_clock.time.time", lambda: now[0])
    setting = {"started": 1000.0, "target": 0.5, "window": 2, "mark_s": 120.0, "limit_s": 400.0, "steps": steps}
    clock, result, stopped = Clock(setting, tmp_path / "steps.jsonl"), list[int](), None
    clock.begin()
    for number, (end, right) in enumerate(zip(ends, rights, strict=True), 1):
        now[0] = 1000.0 + end
        if clock.step(right, 10, lambda number=number: result.append(number)):  # type: ignore[misc]
            stopped = number
            break
    assert (result, stopped) == (saved, stops)
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [row["seconds"] for row in rows] == ends[: len(rows)]
    assert [row["began"] for row in rows] == [0.0, *ends[: len(rows) - 1]]


def learnt(side: Side, seed: int, step_s: float, right: Sequence[float], after: float) -> Learnt:
    ends = tuple(20.0 + step_s * number for number in range(1, len(right) + 1))
    return Learnt(side, seed, "hash", 20.0, ends, tuple(right), 100, 0.25, after, 0.01)


def test_the_page_has_the_ratio_of_each_seed_that_both_finished(tmp_path: Path) -> None:
    file = tmp_path / "learning.jsonl"
    for each in (
        learnt("ours", 0, 10.0, [0.0, 0.6, 0.6], 0.5),  # 50 s
        learnt("trl", 0, 40.0, [0.0, 0.6, 0.6], 0.25),  # 140 s
        learnt("ours", 1, 10.0, [0.6, 0.6], 0.5),  # 40 s
        learnt("trl", 1, 40.0, [0.0] * 4, 0.375),  # not in 180 s
        learnt("ours", 2, 10.0, [0.6, 0.6], 0.5),  # TRL's is not there yet
    ):
        add(file, each)
    done = read(file, "hash")
    assert len(done) == 5
    assert read(file, "of another setting") == read(tmp_path / "none", "hash") == []
    text = page(done, SETTING)
    assert "0.36 of TRL's with one seed; below 0.22 with one where TRL did not pass it" in text
    assert "One step alone takes 0.25 [0.25, 0.25] of TRL's." in text
    assert "| 1 | TRL | 20 s | 40.0 s | - | not in 180 s | 25.0% | **37.5%** | 1% |" in text
    assert "| 0 | reasoner | 20 s | 10.0 s | 3 | **50 s** | 25.0% | **50.0%** | 1% |" in text
    assert "After 2 minutes ours is +18.8 points from TRL's on average (+25.0, +12.5)." in text


@pytest.mark.parametrize(
    ("sides", "verdict"),
    [
        ([learnt("ours", 0, 10.0, [0.6, 0.6], 0.5)], "no seed is finished on both sides"),
        (
            [learnt("ours", 0, 10.0, [0.0, 0.0], 0.2), learnt("trl", 0, 40.0, [0.6, 0.6], 0.5)],
            "not passed by ours with 1 of 1 seeds. One step",
        ),
    ],
)
def test_what_did_not_come_out_is_said(sides: list[Any], verdict: str) -> None:
    assert verdict in page(sides, SETTING | {"trl_options": {"bf16": True}})
    assert '`{"bf16": true}`' in page(sides, SETTING | {"trl_options": {"bf16": True}})


def test_sides_take_turns_and_none_is_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, int]] = []
    asked: list[Path] = []

    def measure_side(side: Side, setting: Any, name: str, before: float, python: Path, folder: Path) -> Learnt:
        assert folder.is_dir()
        assert len(setting["rows"]) == 4 * setting["steps"]
        if len(measured) == 3:
            raise SystemExit("interrupted")
        measured.append((side, setting["seed"]))
        return replace(learnt(side, setting["seed"], 10.0, [0.6] * 8, 0.5), setting=name, before=before)

    def accuracy(model: Path, work: Path) -> float:
        asked.append(model)
        return 0.25

    training_rows = bench_learning.training_rows

    @cache  # reading the problems is what takes time here
    def rows(seed: int, steps: int) -> list[dict[str, Any]]:
        return training_rows(bench_learning.configuration(seed), steps)

    monkeypatch.setattr(bench_learning, "training_rows", lambda resolved, steps: rows(resolved.config.run.seed, steps))
    monkeypatch.setattr(bench_learning, "measure_side", measure_side)
    monkeypatch.setattr(bench_learning, "accuracy", accuracy)
    given = {"steps": 2, "mark_s": 60.0, "limit_s": 90.0, "trl_options": {}}

    def measure(**more: Any) -> None:
        bench_learning.measure([0, 1], given | more, Path("python"), tmp_path / "work", tmp_path)

    with pytest.raises(SystemExit, match="interrupted"):
        measure()
    assert measured == [("ours", 0), ("trl", 0), ("ours", 1)]
    assert "1.00 [1.00, 1.00] of TRL's" in (tmp_path / "learning.md").read_text()
    measured.clear()
    measure()
    assert measured == [("trl", 1)]
    measure()
    assert measured == [("trl", 1)]
    assert len(asked) == 1  # the initial model is evaluated once
    measured.clear()
    with pytest.raises(SystemExit, match="interrupted"):
        measure(mark_s=120.0)  # another setting is another comparison
    assert len(measured) == 3


def test_the_judge_of_trls_responses_is_our_verifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = bench_learning.configuration(0)
    rows = bench_learning.training_rows(resolved, 1)
    assert [len(rows), rows[0]["prompt"][0]["role"]] == [4, "system"]
    assert rows != bench_learning.training_rows(bench_learning.configuration(1), 1)
    setting = bench_learning.common_setting(resolved) | {"seed": 0, "rows": rows}
    (tmp_path / "setting.json").write_text(json.dumps(setting))
    right = f"It is \\boxed{{{rows[2]['answer']}}}."
    asked = [[2, right, True], [2, right, False], [2, "\\boxed{-1}", True], [2, "", True]]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{json.dumps(asked)}\n"))
    bench_learning.judge(tmp_path)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == [[1.0, 1.5], [1.0, 1.0], [0.0, 0.5], [0.0, 0.0]]
