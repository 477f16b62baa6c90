"""The plugin reasoner-gym in a checkout, not installed: listed, refused, trained with, and its distribution."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.plugins.manager import build_manager, registrations
from reasoner.records import Rollout
from reasoner.training.build import open_trainer
from tests.command import Cli
from tests.tiny import build_tiny_model

FOLDER = Path(__file__).resolve().parents[2] / "plugins" / "reasoner-gym"
PLUGIN = str(FOLDER / "reasoner_gym" / "__init__.py")


@pytest.fixture
def gym(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands with the plugin, on wide lines."""
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: cli(*arguments, "--plugin", PLUGIN)


def test_the_family_is_one_line_and_its_members_are_shown(gym: Cli) -> None:
    (line,) = [line for line in gym("tasks", "list").out.splitlines() if line.startswith("gym/")]
    shown = gym("tasks", "show", "gym").out.splitlines()
    members = [each for each in shown if each.startswith("gym/")]
    assert "gym/chain_sum" in members
    assert f"{len(members)} tasks: reasoner tasks show gym" in line
    one = gym("tasks", "show", "gym/chain_sum").out
    assert "64 from generator reasoning_gym, seed 1" in one
    assert "reasoning_gym x 1, boxed_format x 0.2" in one
    (listed,) = [each for each in registrations(build_manager([PLUGIN])) if each.origin == f"plugin file {PLUGIN}"]
    assert (listed.tasks, listed.rewards, listed.generators) == (("gym/*",), ("reasoning_gym",), ("reasoning_gym",))
    assert "gym/*" in gym("plugins", "list").out


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "gym/chain_sm",
            "there is no task 'gym/chain_sm'. Did you mean 'gym/chain_sum'? See `reasoner tasks show gym`.",
        ),
        (
            "gym-chain_sm",
            "there is no task 'gym/chain_sm'. Did you mean 'gym/chain_sum'? See `reasoner tasks show gym`.",
        ),
        ("gmy/chain_sum", "no family of tasks 'gmy'. Did you mean 'gym'? See `reasoner tasks list`."),
        ("gym", "tasks: name one, for example gym/ab. See `reasoner tasks show gym`."),
    ],
)
def test_a_name_that_is_no_task_is_refused(gym: Cli, task: str, message: str) -> None:
    outcome = gym("run", task, "--dry-run")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_difficulty_that_is_not_there_is_refused(gym: Cli) -> None:
    outcome = gym(
        "rewards", "test", "reasoning_gym", "--task=gym/gcd", "--set=data.train.options.config={max_number=4}"
    )
    assert outcome.code == 2
    assert "config.max_number: the dataset 'gcd' has no such field." in outcome.err


def test_reference_answers_are_accepted_by_the_workers_of_a_run(gym: Cli) -> None:
    tested = gym("rewards", "test", "reasoning_gym", "--task", "gym/chain_sum", "--profile", "laptop")
    assert (tested.code, tested.err) == (0, "")
    assert "boxed     88 of 88 get 1.0" in tested.out


@pytest.mark.slow
def test_it_trains_and_the_run_can_be_repeated(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    sets = [f"model.path={model}", "model.device=cpu", "sampling.engine=hf", "sampling.max_tokens=8", "run.steps=1"]
    sets += [
        "data.train.limit=8",
        "data.eval.limit=2",
        "sampling.max_prompt_tokens=500",
        f"run.output={tmp_path / 'runs'}",
        "sampling.group_size=2",
    ]
    with open_trainer(load_config("gym/chain_sum", "laptop", sets=sets, plugins=[PLUGIN])) as trainer:
        train(trainer)
        folder = trainer.run.folder
    assert folder.parent == tmp_path / "runs"
    assert folder.name.endswith("-gym-chain_sum")
    (rollout, *_) = read_parquet(folder / "rollouts" / "step-000001.parquet", Rollout)
    assert rollout.problem.fields["metadata"]["source_dataset"] == "chain_sum"
    assert rollout.components[0].source == "reasoning_gym"
    assert rollout.components[0].failure is None
    config = folder / "config.toml"
    for task in ("gym-chain_sum", "gym/chain_sum"):
        assert load_config(task, config_files=[config], plugins=[PLUGIN]).config.task == "gym-chain_sum"
    assert load_config(config).config.task == "gym-chain_sum"


def test_the_entry_point_names_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata as an installer would write it, found as an installed distribution."""
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / "reasoner_gym-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["reasoner"].items())
    (info / "entry_points.txt").write_text(f"[reasoner]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(FOLDER))
    _is_found("reasoner-gym")


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None,
    reason="hatchling is not installed: the wheel cannot be built offline",
)
def test_the_distribution_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(FOLDER)], check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    needs = metadata.requires("reasoner-gym") or []
    assert [need for need in needs if "extra" not in need] == ["reasoner", "reasoning-gym>=0.1.25"]
    _is_found("reasoner-gym")


def _is_found(name: str) -> None:
    # In a process of its own: this one has imported the package from the checkout.
    program = f"import sys; sys.path[:0] = {sys.path!r}\nfrom reasoner.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, *shlex.split("plugins list")]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"distribution {name} (reasoner_gym)" in listed
    assert "tasks         gym/*" in listed
