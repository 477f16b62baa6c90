"""`reasoner run` as a user runs it: a real process, a tiny model, a data file and a verifier of one's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner.io.parquet import read_parquet
from reasoner.monitoring.format import duration
from reasoner.records import Rollout
from reasoner.report.collect import collect
from reasoner.report.model_card import export
from reasoner.report.text import as_markdown
from reasoner.runs.folder import read_evaluations, read_gate, read_metrics
from reasoner.runs.model import run_model
from reasoner.runs.reader import read_run
from tests.architectures import build
from tests.command import Cli
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

TASK = """
[model]
path = "{model}"
[data]
overlap = "allow"
[data.train]
path = "{data}"
[data.eval]
path = "{data}"
limit = 2
[sampling]
engine = "hf"
group_size = 4
max_tokens = 12
max_prompt_tokens = 256
[[rewards]]
source = "letters"
[gro]
preset = "grpo"
terms.grpo.kl = {{ coefficient = 0.01, estimator = "k3" }}
[learning]
problems_per_step = 4
updates_per_step = 2
learning_rate = 1e-3
[evaluation]
correct = "letters"
every = 1
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`reasoner run TASK ...` for a task file of one's own."""
    data = tmp_path / "problems.jsonl"
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(8)]
    data.write_text("\n".join(rows) + "\n")
    model = build_tiny_model(tmp_path / "tiny")
    task = tmp_path / "letters-task.toml"
    task.write_text(TASK.format(model=model, data=data))
    plugin = Path(__file__).with_name("rewarding_letters.py")
    return [
        *(sys.executable, "-m", "reasoner", "run", str(task)),
        *("--plugin", str(plugin), "--output", str(tmp_path / "runs")),
    ]


def test_a_run_leaves_everything_that_it_promises(command: list[str], tmp_path: Path, cli: Cli) -> None:
    done = subprocess.run([*command, "--steps", "2"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert [row["step"] for row in read_metrics(folder)] == [1, 2]
    assert [evaluated.step for evaluated in read_evaluations(folder)] == [0, 1, 2]
    rollouts = read_parquet(folder / "rollouts" / "step-000002.parquet", Rollout)
    assert len(rollouts) == 16
    # Two optimiser steps in the first training step: the second step's responses are by version 2.
    assert {rollout.response.policy_version for rollout in rollouts} == {2}
    assert any(rollout.credit for rollout in rollouts)
    assert "\x1b" not in done.stdout + (folder / "log.txt").read_text()
    seen = json.loads((folder / "environment.json").read_text())["chosen"]["sampler check"]
    assert seen.startswith("the sampler takes all 11 families of parameters ")
    assert seen in (folder / "log.txt").read_text()
    assert "the sampler follows the learner: 1.00 of " in done.stdout
    assert str(folder / "model") in done.stdout
    assert f"Report:\n  {folder / 'report.html'}\n" in done.stdout
    total = duration(read_run(folder).times.total)
    assert re.search(rf"total\s+{total}\s", done.stdout)
    assert f"<td>{total}</td>" in (folder / "report.html").read_text()
    saved = read_run(folder)
    export(saved, run_model(saved), tmp_path / "exported")
    AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    AutoTokenizer.from_pretrained(tmp_path / "exported")

    gate = read_gate(folder)
    assert gate
    assert (gate.problems, gate.samples) == (8, 4)
    for shown in (done.stdout, (folder / "log.txt").read_text(), as_markdown(collect([folder]))):
        assert " ".join(gate.sentence.split()) in " ".join(shown.replace("\n- ", " ").split())
    assert "before and after: " in done.stdout  # of the examples; a tiny model learns nothing in two steps

    # Without the gate it is the same run: it takes no problem and no noise from a step.
    again = cli("run", str(folder / "config.toml"), "--no-gate", "--output", str(tmp_path / "again"))
    assert again.code == 0, again.err
    (repeated,) = (tmp_path / "again").iterdir()
    assert read_gate(repeated) is None
    assert "Before training" not in again.out
    weights = "model.safetensors"
    assert (repeated / "model" / weights).read_bytes() == (folder / "model" / weights).read_bytes()


def test_a_run_replays_the_experts_of_its_sampler(command: list[str], tmp_path: Path, cli: Cli) -> None:
    """The check of the sampler, partial responses and evaluations included."""
    model = build("qwen3_moe", tmp_path / "experts")
    sets = [
        f"model.path={model}",
        "learning.routing_replay=true",
        "sampling.over_sample=0.5",
        "sampling.max_staleness=1",
    ]
    sets += ["gro.terms.grpo.correction.kind=truncate"]
    done = cli(*command[3:], "--steps", "2", "--no-gate", *(part for each in sets for part in ("--set", each)))
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    rows = read_metrics(folder)
    assert rows[0]["gap/mean"] < 1e-4
    for row in rows:  # of two updates, and of tokens that older weights sampled
        assert 0.0 <= row["update/rerouted"] < 0.3
    rollouts = read_parquet(folder / "rollouts" / "step-000002.parquet", Rollout)
    assert not any(rollout.response.routes for rollout in rollouts)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_no_process(
    command: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    endless = [*command, "--steps", "10000", "--no-gate"]
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        _wait_for_steps(tmp_path / "runs", 1)
        family = psutil.Process(run.pid).children(recursive=True)
        assert family
        os.kill(run.pid, number)
        output, errors = run.communicate(timeout=60)
        assert run.returncode == 130, (output + errors).decode()
        assert b"Traceback" not in errors
        assert b"interrupted: to resume from step " in output
    psutil.wait_procs(family, timeout=20)
    assert not [process for process in family if process.is_running()]
    (folder,) = (tmp_path / "runs").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert len(read_metrics(folder)) == status["committed_steps"] >= 1


def _wait_for_steps(output: Path, steps: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for file in output.glob("*/metrics.jsonl"):
            if file.read_text().count("\n") >= steps:
                return
        time.sleep(0.2)
    raise AssertionError("the run committed no step in time")
