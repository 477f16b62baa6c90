"""Runs that are killed and resumed: they end as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoner.codec import read_parquet
from reasoner.records import Rollout
from reasoner.runs.folder import read_evaluations, read_metrics
from reasoner.runs.starts import read_starts
from tests.integration.killing import TRIALS, Trial
from tests.integration.test_methods import TASK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tests.integration.killing` after it has done its work."""
    folder = tmp_path_factory.mktemp("killed")
    write_task(folder, folder / "tiny")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.killing", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def write_task(folder: Path, model: Path) -> Path:
    rows: dict[str, list[dict[str, Any]]] = {
        "problems": [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(10)],
        "pairs": [{"prompt": f"say {n}", "chosen": f"yes {n}", "rejected": f"no, {n}"} for n in range(10)],
        "labelled": [{"prompt": f"say {n}", "completion": f"yes {n}", "label": n % 2 == 0} for n in range(10)],
        "demos": [{"prompt": f"say {n}", "completion": f"yes {n}"} for n in range(10)],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    task = folder / "trial.toml"
    task.write_text(TASK.format(model=model, folder=folder).replace("steps = 2", "steps = 6"))
    return task


def only(folder: Path) -> Path:
    """The run below an output folder that got further than its start."""
    (run,) = (run for run in folder.iterdir() if (run / "identity.json").exists())
    return run


def same_every_time(row: dict[str, float]) -> dict[str, float]:
    """Metrics without times and memory."""
    measured = ("time/", "memory/", "tokens_per_s/")
    return {
        name: value for name, value in row.items() if not name.startswith(measured) and not name.endswith("/seconds")
    }


def rollouts(run: Path) -> Iterator[tuple[str, list[Rollout]]]:
    """Every rollout without the seconds that its components took."""
    for path in sorted((run / "rollouts").iterdir()):
        rows = read_parquet(path, Rollout)
        yield path.name, [replace(r, components=tuple(replace(c, seconds=0.0) for c in r.components)) for r in rows]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(killed: Path, trial: Trial) -> None:
    kinds = json.loads((killed / "report.json").read_text())[trial.name]
    assert sum(kinds.values()) == trial.kills
    assert len(kinds) == 2  # moments and calls
    once, often = only(killed / f"{trial.name}-once"), [only(path) for path in killed.glob(f"{trial.name}-often-*")]
    for run in often:
        check_equal(once, run)
    starts = [start for run in often for start in read_starts(run)]
    assert len(starts) > trial.kills / 2  # the others were killed before they came so far
    assert sum(start.repeated for start in starts) > 0 or trial.name == "offline"  # a checkpoint after every step


def check_equal(once: Path, often: Path) -> None:
    weights = sorted(path.relative_to(once) for path in (once / "model").rglob("*") if path.is_file())
    assert weights
    for path in weights:
        assert (often / path).read_bytes() == (once / path).read_bytes(), path
    assert [*map(same_every_time, read_metrics(often))] == [*map(same_every_time, read_metrics(once))]
    assert dict(rollouts(often)) == dict(rollouts(once))
    assert read_evaluations(often) == read_evaluations(once)
    status = json.loads((often / "status.json").read_text())
    assert (status["state"], status["committed_steps"]) == ("finished", len(read_metrics(once)))
    assert not list(often.rglob("*.partial"))
