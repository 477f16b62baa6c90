"""The comparison of a step with an earlier checkout's: seconds within a round, and how far ids and rewards agree."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from scripts.bench_single_turn import TIMES, Row, Side, SingleTurnRun, read, report, run, same_steps, sameness

A: Row = ("a", 0, (1, 2), 0.5)
OTHER_TOKEN: Row = ("a", 0, (1, 3), 0.5)
OTHER_REWARD: Row = ("a", 0, (1, 2), 0.25)


def finished(seconds: Sequence[float], *rows: Row) -> SingleTurnRun:
    return SingleTurnRun(dict.fromkeys(TIMES, seconds), [[row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "count"),
    [((A, A, A), 3), ((A, OTHER_TOKEN, A), 1), ((A, A, OTHER_REWARD), 2), ((OTHER_REWARD, A, A), 0)],
)
def test_steps_are_the_same_up_to_the_first_other_token_or_reward(rows: tuple[Row, ...], count: int) -> None:
    assert same_steps(finished([1.0], A, A, A), finished([1.0], *rows)) == count


def test_a_ratio_is_taken_within_a_round_and_without_the_first_steps() -> None:
    runs: dict[Side, list[SingleTurnRun]] = {
        "before": [finished([99.0, 2.0, 2.0, 4.0]), finished([99.0, 10.0, 10.0, 10.0])],
        "now": [finished([1.0, 1.0, 1.0, 3.0]), finished([1.0, 15.0, 15.0, 15.0])],
    }
    console = Console(file=io.StringIO(), width=200)
    console.print(report(runs, skip=1))
    assert isinstance(console.file, io.StringIO)
    line = next(line for line in console.file.getvalue().splitlines() if "time/total" in line)
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["6 [2, 10]", "8 [1, 15]", "1.000 [0.500, 1.500]"]


def test_a_side_that_does_not_repeat_itself_is_told_from_sides_that_differ() -> None:
    runs: dict[Side, list[SingleTurnRun]] = {
        "before": [finished([1.0], A, A), finished([1.0], A, OTHER_TOKEN)],
        "now": [finished([1.0], A, A), finished([1.0], A, A)],
    }
    assert [line.removeprefix("token ids and rewards of ") for line in sameness(runs)] == [
        "before and now: same in the first 1 of 2 steps",
        "all runs of before: same in the first 1 of 2 steps",
        "all runs of now: same in the first 2 of 2 steps",
    ]


def test_responses_are_read_in_the_order_of_problems_and_not_of_completion(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "metrics.jsonl").write_text(json.dumps(dict.fromkeys(TIMES, 1.5)) + "\n")
    rows = [
        {"problem": {"id": id_}, "sample": 0, "response": {"token_ids": [7]}, "reward": 1.0, "step": 1}
        for id_ in ("b", "a")
    ]
    for name in ("step-000001", "eval-000000"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rollouts" / f"{name}.parquet")
    result = read(tmp_path)
    assert result.steps == [[("a", 0, (7,), 1.0), ("b", 0, (7,), 1.0)]]
    assert result.times["time/total"] == [1.5]


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no checkout"):
        run(tmp_path, tmp_path / "task.toml", tmp_path / "out")
