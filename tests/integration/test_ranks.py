"""Several ranks as a user runs them: two real ones on the CPU, a tiny model, a verifier of one's own.

Two names of this machine stand for two machines, and a script for ssh.
"""

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
from transformers import AutoModelForCausalLM

from reasoner.api.command import call
from reasoner.io.parquet import read_parquet
from reasoner.records import Response, Rollout
from reasoner.runs.folder import read_evaluations, read_metrics
from tests.integration.test_run import TASK
from tests.tiny import build_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.deepspeed]

HERE = Path(__file__).parent


SSH = """#!/bin/sh
while [ $# -gt 2 ]; do shift; done  # the options; a host and a command are left
exec env -i HOME="$HOME" PATH=/usr/bin:/bin sh -c "$2"
"""
"""gives the command what ssh gives: standard input and output, and nothing of the environment"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`reasoner run TASK ...` for a task file of one's own."""
    folder = tmp_path_factory.mktemp("ranks")
    data = folder / "problems.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(8)))
    task = folder / "letters-task.toml"
    text = TASK.format(model=build_tiny_model(folder / "tiny"), data=data)
    task.write_text(text)
    (grpo,) = re.findall(r'^preset = "grpo"\n.*\n', text, re.MULTILINE)
    task.with_name("ppo-task.toml").write_text(text.replace(grpo, 'preset = "ppo"\n'))
    begins = text.replace('source = "letters"', 'source = "begins"').replace(
        'correct = "letters"', 'correct = "begins"'
    )
    task.with_name("begins-task.toml").write_text(begins)
    return [
        *(sys.executable, "-m", "reasoner", "run", str(task), "--set", "model.device=cpu"),
        *("--plugin", str(HERE / "rewarding_letters.py")),
    ]


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A hostfile of two machines, of two GPUs and of one, and the PATH with which they are reached."""
    folder = tmp_path_factory.mktemp("machines")
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    (folder / "hosts").write_text("localhost slots=2\n127.0.0.1 slots=1  # the same\n")
    return folder / "hosts", f"{folder}:{os.environ['PATH']}"


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)


def test_a_failure_is_shown_with_its_node_and_ends_the_others(command: list[str], tmp_path: Path) -> None:
    """As `srun --nodes=2 --ntasks-per-node=1` starts it."""
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost,other",
        "OMP_NUM_THREADS": "1",
    }
    broken = [*command, "--gpus", "1", "--plugin", str(HERE / "failing_rank.py"), "--output", str(tmp_path)]
    launchers = [
        subprocess.Popen(
            broken,
            env=os.environ | step | {"SLURM_NODEID": str(index), "SLURMD_NODENAME": f"node-{index}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    shown = [launcher.communicate(timeout=280)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [2, 2], shown
    first = next(line for line in shown[0].splitlines() if line)
    assert first == "error: rank 1 on node-1 failed.", shown
    assert "only here" in shown[0]
    assert "only here" not in shown[1]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_rank_ends_the_run_which_can_be_gone_on_with(command: list[str], tmp_path: Path) -> None:
    """With a critic, of which every rank has a copy."""
    command = [part.replace("letters-task", "ppo-task") for part in command]
    arguments = [*command, "--set", "run.ranks=2", "--output", str(tmp_path), "--steps", "10000", "--no-gate"]
    arguments += ["--set", "evaluation.every=0", "--set", "run.checkpoint_every=1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("*/checkpoints/step-000001")):
            assert launcher.poll() is None, launcher.communicate()
            assert time.monotonic() < deadline, "no step within 200 s"
            time.sleep(0.2)
        family = psutil.Process(launcher.pid).children(recursive=True)
        (second,) = [each for each in family if each.ppid() == launcher.pid and _rank(each) == "1"]
        second.send_signal(signal.SIGKILL)
        _, errors = launcher.communicate(timeout=60)
        assert launcher.returncode == 1
    (folder,) = tmp_path.iterdir()
    assert "error: rank 1 was ended by signal 9" in errors
    assert f"To resume: reasoner run --resume {folder}" in errors
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["reason"].startswith("rank 1 was ended by signal 9")
    steps = str(status["committed_steps"] + 1)
    done = run([sys.executable, "-m", "reasoner", "run", "--resume", str(folder), "--steps", steps])
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    metrics = read_metrics(folder)
    assert len(metrics) == int(steps)
    assert all(row["critic/loss"] > 0.0 for row in metrics)
    AutoModelForCausalLM.from_pretrained(folder / "model")
    assert (folder / "model" / "critic" / "value_head.safetensors").exists()
    assert not list(folder.glob("ranks/*/critic"))


LORA = ("lora.rank=4", "lora.alpha=8")
TURNS = ("environment.name=walk", "environment.options.turns=2", "environment.format=tags", "sampling.max_tokens=80")
"""an environment in the workers of each rank, which answers the first turn of a response and ends it with the second"""
AHEAD = ("sampling.max_staleness=2",)
"""later steps are sampled during the update"""
STEPS = 7
RAGGED = (
    *("sampling.group_size=2", 'sampling.stop=["a", "e", "i", "1"]'),
    *("learning.updates_per_step=1", "learning.token_budget=64"),
    *(f"evaluation.every={STEPS}", "run.keep_last=0"),
)
"""responses of many lengths, in micro-batches of a row or two"""


@pytest.mark.parametrize(
    ("where", "stage", "more"),
    [
        pytest.param(["--gpus", "2"], 3, (*LORA, *TURNS, *AHEAD), id="2 ranks, ZeRO 3, LoRA, an environment, ahead"),
        pytest.param(["--hostfile"], 2, ("sampling.refills=1",), id="2 machines, 3 ranks, ZeRO 2"),
    ],
)
def test_ragged_steps_come_to_an_end(
    command: list[str],
    two_machines: tuple[Path, str],
    tmp_path: Path,
    where: list[str],
    stage: int,
    more: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of ranks with unequal numbers of micro-batches, or none; whose plugins watch on the first one only, with an
    environment or without. From the command line, and as a program starts them, which hears of the folder and shows
    the first rank's lines. All ranks, and machines, train as one."""
    hosts, path = two_machines
    ranks = 3 if where == ["--hostfile"] else 2
    ragged = [part.replace("letters-task", "begins-task") for part in command]
    for name in ("noting_ranks.py", "walking_environment.py"):
        ragged += ["--plugin", str(HERE / name)]
    ragged += [*where, *([str(hosts)] if ranks == 3 else [])]
    ragged += ["--output", str(tmp_path / "runs"), "--steps", str(STEPS)]
    problems = ranks + 1  # of which some are left: less than the ranks, or one more
    for each in (*RAGGED, f"learning.problems_per_step={problems}", f"learning.deepspeed.zero_stage={stage}", *more):
        ragged += ["--set", each]
    environment = {"REASONER_RANK_NOTES": str(tmp_path / "notes"), "OMP_NUM_THREADS": "1", "PATH": path}
    if ranks == 3:
        done = run(ragged, **environment)
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / "runs").iterdir()
        shown = done.stdout
    else:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        folder = call(*ragged[ragged.index("run") :], resume="{folder}")
        assert folder.parent == tmp_path / "runs"
        shown = capsys.readouterr().out
    assert shown.count(f"step {STEPS}/{STEPS}") == 1
    check_finished(folder, ranks, ahead=AHEAD[0] in more)
    check_turns(folder, 2 if TURNS[0] in more else 1)
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    counts = [[int(n) for rank, what, n in notes if (rank, what) == (str(k), "batches")] for k in range(ranks)]
    passes = list(zip(*counts, strict=True))
    if "sampling.refills=1" in more:  # elsewhere every step has groups for all; `test_deepspeed` has shares of nothing
        assert any(min(each) == 0 < max(each) for each in passes), passes
    assert any(0 < min(each) < max(each) for each in passes), passes
    events = [(rank, value) for rank, what, value in notes if what == "event"]
    expected = ["run_started", *["groups_scored", "step_finished"] * STEPS, "run_finished"]
    assert events == [("0", name) for name in expected]
    assert "step_finished failed: ZeroDivisionError: only watching" in (folder / "log.txt").read_text()


def check_finished(folder: Path, ranks: int, *, ahead: bool) -> None:
    """The folder of a ragged run is that of one run, to which every rank has contributed."""
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert f"ranks = {ranks}" in (folder / "config.toml").read_text()
    assert not list(folder.rglob("stacks.txt"))
    metrics = read_metrics(folder)
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    assert [evaluated.evaluation.problems for evaluated in read_evaluations(folder)] == [2, 2]
    for row in metrics:
        rollouts = read_parquet(folder / "rollouts" / f"step-{int(row['step']):06}.parquet", Rollout)
        groups = len(rollouts) // 2
        assert row.get("groups/sampled", groups) == groups > ranks  # those of all ranks
        assert [rollout.sample for rollout in rollouts] == [0, 1] * groups  # whole, in the order of the problems
        versions = {version for rollout in rollouts for version in versions_of(rollout.response)}
        if ahead:  # a step without any credit is no optimiser step
            assert versions <= {*range(int(row["step"]))}
            assert row["tokens/staleness_max"] <= 2
            assert not any(rollout.dropped for rollout in rollouts)
        else:
            assert len(versions) == 1
            assert row["gap/mean"] < 1e-4  # each rank's sampler has the learner's weights
            assert all(any(rollout.weights or ()) != rollout.dropped for rollout in rollouts)
        assert row["tokens/sampled"] == sum(sum(rollout.response.policy_mask) for rollout in rollouts)
    assert not ahead or max(row["tokens/staleness_max"] for row in metrics) == 2
    AutoModelForCausalLM.from_pretrained(folder / "model")
    for rank in range(1, ranks):
        assert f"step {STEPS}/{STEPS}" in (folder / "ranks" / f"rank-{rank}" / "log.txt").read_text()


def versions_of(response: Response) -> set[int]:
    """Of the weights that sampled any of its tokens."""
    return {response.policy_version, *(version for _, version in response.version_changes)}


def check_turns(folder: Path, turns: int) -> None:
    """Responses of all ranks have their turns, and what the environment wrote has neither credit nor weight."""
    most = 0
    for file in folder.glob("rollouts/step-*.parquet"):
        for rollout in read_parquet(file, Rollout):
            response = rollout.response
            most = max(most, sum(turn.role == "assistant" for turn in response.turns) or 1)
            assert all(response.policy_mask) == (len(response.turns) <= 1)
            for own, weight in zip(response.policy_mask, rollout.weights or (), strict=bool(rollout.weights)):
                assert own or not weight
    assert most == turns


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("sleeps", ["error: rank 0 waited in vain for another rank, and gave up.", "in all_reduce", "in never_comes"]),
        ("raises", ["error: rank 1 failed.", "ZeroDivisionError: only here"]),
    ],
)
def test_a_rank_that_stops_within_an_update_ends_the_run(
    command: list[str], tmp_path: Path, what: str, says: list[str]
) -> None:
    stopping = [*command, "--plugin", str(HERE / "stopping_rank.py"), "--gpus", "2", "--output", str(tmp_path)]
    done = run([*stopping, "--steps", "2", "--no-gate", "--set", "evaluation.every=0"], RANK_ONE=what)
    assert done.returncode == 1
    (folder,) = tmp_path.iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed"
    for each in says:
        assert each in done.stderr
        assert each.removeprefix("error: ") in status["reason"]
    if what == "sleeps":
        assert "in all_reduce" in (folder / "stacks.txt").read_text()
        assert "in never_comes" in (folder / "ranks" / "rank-1" / "stacks.txt").read_text()


def _rank(process: psutil.Process) -> str | None:
    return process.environ().get("RANK")


def test_ranks_that_disagree_are_refused(command: list[str], tmp_path: Path) -> None:
    """As on two nodes: torchrun's variables, and another seed on one of them."""
    ranks = []
    for rank in range(2):
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(20_000 + os.getpid() % 20_000),
        }
        arguments = [*command, "--output", str(tmp_path), "--set", f"run.seed={rank}"]
        ranks.append(subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True))
    for process in ranks:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 2
        assert "ranks disagree: run.seed is 0 on rank 0 and 1 on rank 1" in errors
    assert list(tmp_path.iterdir()) == []
