"""A run whose objective overflows: it stops in time and keeps what is needed to find out why."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from reasoner.errors import RunError
from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.records import NonFiniteResponse
from reasoner.runs.folder import read_metrics
from reasoner.training.build import open_trainer
from tests.tiny import build_tiny_model

PLUGIN = """
from reasoner import hookimpl
from reasoner.gro.spec.registry import Algorithms

calls = 0


def overflow(u, c):
    global calls
    calls += 1
    return c * u * (float("inf") if calls in (2, 4, 5) else 1.0)  # the first is asked before the run


@hookimpl
def register_algorithms():
    return Algorithms(links={"overflow": overflow})
"""
TASK = """
[model]
path = "{folder}/tiny"
device = "cpu"
[data.demos]
path = "{folder}/demos.jsonl"
per_step = 2
[gro]
preset = "sft"
terms.sft.link = {{ kind = "custom", name = "overflow" }}
[learning]
max_not_finite = 2
[run]
steps = 9
output = "{folder}/runs"
"""


@pytest.mark.slow
def test_a_run_stops_after_two_bad_steps_in_a_row_and_says_where_the_responses_are(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "tiny")
    rows = [{"prompt": f"say {n}", "completion": f"yes {n}"} for n in range(8)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "overflow.py").write_text(PLUGIN)
    (tmp_path / "trial.toml").write_text(TASK.format(folder=tmp_path))
    resolved = load_config(tmp_path / "trial.toml", plugins=[str(tmp_path / "overflow.py")])
    with pytest.raises(RunError, match="in 2 steps in a row") as stopped, open_trainer(resolved) as trainer:
        train(trainer)
    folder = trainer.run.folder
    assert str(folder / "not-finite" / "step-000004.parquet") in str(stopped.value)
    history = read_metrics(folder)
    assert [metrics["update/not_finite"] for metrics in history] == [1.0, 0.0, 1.0, 1.0]
    assert [metrics["update/applied"] for metrics in history] == [0.0, 1.0, 0.0, 0.0]
    assert trainer.learner.version == 1
    assert sorted(path.name for path in (folder / "not-finite").iterdir()) == [
        f"step-{step:06}.parquet" for step in (1, 3, 4)
    ]
    nonfinite = read_parquet(folder / "not-finite" / "step-000001.parquet", NonFiniteResponse)
    assert len(nonfinite) == 2
    for suspect in nonfinite:
        assert suspect.source == "demos"
        assert len(suspect.weights) == len(suspect.outputs) == len(suspect.response.token_ids)
        assert all(map(math.isfinite, suspect.outputs))
        assert not all(map(math.isfinite, suspect.weights))
    log = (folder / "log.txt").read_text()
    assert "step 1: no update: the loss is not finite" in log
    assert "weights of 2 responses are not finite" in log
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
