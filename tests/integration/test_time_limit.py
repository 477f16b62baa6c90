"""`run.max_hours`: a run that ends before its time is up, and goes on as if it had never stopped."""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

import pytest

from reasoner import __main__
from reasoner.errors import OutOfTimeError
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.runs.folder import read_metrics
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed
from reasoner.training.build import open_trainer
from tests.tiny import build_tiny_model

TASK = """
[model]
path = "{folder}/tiny"
device = "cpu"
[data.demos]
path = "{folder}/demos.jsonl"
per_step = 2
[gro]
preset = "sft"
[learning]
learning_rate = 1e-3
[run]
steps = 5
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    build_tiny_model(tmp_path / "tiny")
    rows = [{"prompt": f"say {n}", "completion": f"yes {n}"} for n in range(8)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "trial.toml"
    file.write_text(TASK.format(folder=tmp_path))
    return file


@pytest.mark.slow
def test_a_run_that_is_out_of_time_is_saved_and_goes_on(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_config(task, sets=[f"run.output={tmp_path / 'whole'}"])
    with open_trainer(whole) as trainer:
        model = train(trainer)
    clock = count(60, 60)  # whenever the run looks at the time, another minute has passed
    monkeypatch.setattr("reasoner.training.trainer.seconds_since_start", lambda: float(next(clock)))
    limited = load_config(task, sets=[f"run.output={tmp_path / 'runs'}", "run.max_hours=0.06"])
    with pytest.raises(OutOfTimeError, match=r"run.max_hours = 0.06"), open_trainer(limited) as trainer:
        train(trainer)
    folder = trainer.run.folder
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "stopped"
    assert 0 < status["committed_steps"] < 5
    log = (folder / "log.txt").read_text()
    assert "stopped, because " in log
    assert f"to resume from step {status['committed_steps']}: reasoner run --resume {folder}" in " ".join(log.split())
    assert not (folder / "model").exists()

    resolved, changes = load_resumed(folder, ["run.max_hours=none"])
    with open_trainer(resolved, Resume(folder, changes)) as trainer:
        again = train(trainer)
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert len(read_metrics(folder)) == 5
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_its_exit_code_is_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def end() -> None:
        raise OutOfTimeError("2:00:00 of run.max_hours = 2 have passed")

    monkeypatch.setattr(__main__, "app", end)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(SystemExit) as left:
        __main__.main()
    assert left.value.code == 3
    assert capsys.readouterr() == ("", "")
