"""`reasoner eval` with tiny models: paired comparison, resume after an interruption, what is refused before loading."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner.__main__ import main
from reasoner.io.folder_lock import Lock
from reasoner.io.parquet import read_parquet
from reasoner.records import Rollout
from reasoner.sampling.transformers import HfSampler
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

PLUGIN = '''
from reasoner import Score, hookimpl, reward

@reward("first", timeout_s=5.0)
def first(problem, response) -> Score:
    """1.0 if the first character is a letter."""
    start = response.text[:1]
    return Score(float(start.isascii() and start.isalpha()), {"extracted": start or None})

@hookimpl
def register_rewards():
    return (first,)
'''
TASK = """
[model]
path = "{folder}/base"
device = "cpu"
[data.eval]
path = "{folder}/sums.jsonl"
[sampling]
engine = "hf"
max_prompt_tokens = 256
[scoring]
workers = 1
[[rewards]]
source = "first"
[evaluation]
correct = "first"
max_tokens = 8
"""
PROBLEMS = 12


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a copy of the first, two tasks on one file, a verifier."""
    root = tmp_path_factory.mktemp("eval")
    build_tiny_model(root / "base")
    build_tiny_model(root / "trained", seed=1)
    shutil.copytree(root / "base", root / "copy")
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(PROBLEMS)]
    (root / "sums.jsonl").write_text("\n".join(rows) + "\n")
    (root / "sums.toml").write_text(TASK.format(folder=root))
    (root / "short.toml").write_text(TASK.format(folder=root).replace("max_tokens = 8", "max_tokens = 4"))
    (root / "first.py").write_text(PLUGIN)
    return root


@pytest.fixture
def cli(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`reasoner eval ARGUMENTS` in this process; the evaluation is below tmp_path."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Outcome:
        words = [str(argument) for argument in arguments]
        own = [] if "--resume" in words else ["--plugin", str(folder / "first.py"), "--output", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["reasoner", "eval", *words, *own])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), *capsys.readouterr())

    return call


def only(tmp_path: Path) -> Path:
    (result,) = tmp_path.glob("*-eval-*")
    return result


def test_two_models_on_two_tasks_each_loaded_once(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    opened, closed = HfSampler.__init__, HfSampler.close

    def opening(self: HfSampler, model: Path, *rest: Any, **options: Any) -> None:
        events.append(model.name)
        opened(self, model, *rest, **options)

    def closing(self: HfSampler) -> None:
        events.append("closed")
        closed(self)

    monkeypatch.setattr(HfSampler, "__init__", opening)
    monkeypatch.setattr(HfSampler, "close", closing)
    tasks, sampled = [folder / "sums.toml", folder / "short.toml"], ["--samples", 3, "--temperature", 1]
    done = cli(*tasks, "--model", folder / "base", "--model", folder / "copy", *sampled, "--json")
    assert done.code == 0, done.err
    assert events == ["base", "closed", "copy", "closed"]
    result = json.loads(done.out)
    assert result["models"] == {"A": str(folder / "base"), "B": str(folder / "copy")}
    assert [(task["task"], task["problems"], task["max_tokens"]) for task in result["tasks"]] == [
        ("sums", PROBLEMS, 8),
        ("short", PROBLEMS, 4),
    ]
    figures = result["tasks"][0]["results"]["A"]["figures"]
    assert {"avg@3", "pass@2", "pass@3", "maj@3", "length"} <= set(figures)
    assert 0 < figures["avg@3"]["value"] < 1
    # B is a copy of A, and both drew with the same seeds: nothing differs.
    for task in result["tasks"]:
        for figure in task["comparisons"][0]["figures"].values():
            assert (figure["change"], figure["rose"], figure["fell"], figure["p"]) == (0.0, 0, 0, 1.0)

    saved = only(tmp_path)
    assert json.loads((saved / "results.json").read_text()) == result
    rollouts = read_parquet(saved / "sums-B" / "rollouts" / "eval-000000.parquet", Rollout)
    assert len(rollouts) == 3 * PROBLEMS
    assert not list(saved.rglob("groups.jsonl"))
    again = cli("--resume", saved, "--json")
    assert (again.code, json.loads(again.out)) == (0, result)
    assert len(events) == 4  # nothing was loaded


PARTLY = """
from reasoner import hookimpl, reward

@reward("partly", timeout_s=5.0)
def partly(problem, response, *, all_of_them: bool = False):
    if int(problem.answer) % 3 == 0 and not all_of_them:
        return 0.6

@hookimpl
def register_rewards():
    return (partly,)
"""


def test_the_threshold_and_the_problems_that_the_source_applies_to_decide_the_figures(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "partly.py"
    plugin.write_text(PARTLY)
    common = ["--plugin", plugin, "--set", "evaluation.correct=partly"]
    rewards = ["--set", "rewards=[{source = 'partly'}]"]
    done = cli(folder / "sums.toml", *common, *rewards, "--set", "evaluation.threshold=0.5", "--json")
    assert done.code == 0, done.err
    (task,) = json.loads(done.out)["tasks"]
    (result,) = task["results"].values()
    assert (task["problems"], task["threshold"], result["judged"]) == (PROBLEMS, 0.5, PROBLEMS // 3)
    assert result["figures"]["avg@1"] | {"low": None, "high": None} == {
        **{"unit": "share", "problems": PROBLEMS // 3, "value": 1.0, "low": None, "high": None},
    }
    assert result["figures"]["length"]["problems"] == PROBLEMS
    silent = ["--set", "rewards=[{source = 'partly', options = {all_of_them = true}}]"]
    done = cli(folder / "sums.toml", *common, *silent)
    assert done.code == 0, done.err
    assert f"{PROBLEMS} problems (0 of them judged)" in done.out
    assert "WARNING: reward source 'partly' has nothing to say about any of the 12 responses" in done.out


KILL = f"""
import os, signal, sys
from reasoner.__main__ import main
from reasoner.benchmarks.folder import EvaluationFolder
commit, committed = EvaluationFolder.commit, []
def killing(self, part, group):
    if len(committed) == {PROBLEMS + 5}:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, part, group)
    committed.append(group)
EvaluationFolder.commit = killing
main()
"""


@pytest.fixture(scope="module")
def killed(folder: Path) -> Path:
    """An evaluation of two models that was killed in the second one after five problems, and then in a sixth line."""
    words = (folder / "sums.toml", "--model", folder / "base", "--model", folder / "trained")
    own = ("--plugin", folder / "first.py", "--output", folder / "out")
    done = subprocess.run([sys.executable, "-c", KILL, "eval", *map(str, (*words, *own))], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    saved = only(folder / "out")
    with (saved / "sums-B" / "groups.jsonl").open("a") as file:
        file.write('{"group": {"problem": {"id": "sums:')
    return saved


def test_a_killed_evaluation_goes_on_where_it_was(
    cli: Cli, folder: Path, tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    sample = TrajectorySampler.sample

    def counting(self: TrajectorySampler, prompts: Any, *rest: Any) -> Any:
        drawn.append(len(prompts))
        return sample(self, prompts, *rest)

    saved = tmp_path / "saved"
    shutil.copytree(killed, saved)
    monkeypatch.setattr(TrajectorySampler, "sample", counting)
    done = cli("--resume", saved, "--json")
    assert done.code == 0, done.err
    assert drawn == [2, PROBLEMS - 5]  # two for the comparison with a plain forward pass
    (task,) = json.loads(done.out)["tasks"]
    (whole,) = json.loads(cli(folder / "sums.toml", "--model", folder / "trained", "--json").out)["tasks"]
    assert task["results"]["B"] == whole["results"]["A"]  # greedy: the same as in one go

    accuracy = task["comparisons"][0]["figures"]["avg@1"]
    values = [task["results"][letter]["figures"]["avg@1"]["value"] for letter in "AB"]
    assert [accuracy["baseline"], accuracy["model"]] == pytest.approx(values)
    assert accuracy["change"] == pytest.approx(values[1] - values[0])
    assert accuracy["low"] < accuracy["change"] < accuracy["high"]
    assert accuracy["rose"] - accuracy["fell"] == pytest.approx(PROBLEMS * accuracy["change"])
    assert accuracy["problems"] == PROBLEMS
    assert 0 < accuracy["p"] < 1

    shown = cli("--resume", saved).out
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(len(line) for line in lines if not line.startswith("evaluation folder")) <= 80
    assert "sums: 12 problems, 1 response each, greedy" in lines
    assert [line.split()[0] for line in lines if line[:1] in ("A", "B")] == ["A", "B", "B", "A", "B"]


def test_a_sampler_that_is_off_gives_no_figures(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose engine computes something else than the model's own forward pass does."""
    init = HfSampler.__init__

    def other(self: HfSampler, *rest: Any, **options: Any) -> None:
        init(self, *rest, **options)
        with torch.no_grad():
            self._model.model.norm.weight.mul_(1.1)

    with monkeypatch.context() as patch:
        patch.setattr(HfSampler, "__init__", other)
        done = cli(folder / "sums.toml")
    assert done.code == 1
    assert "model A: the log-probabilities of hf differ from those of a plain forward pass by " in done.err
    assert "Its figures would be those of another model." in done.err
    assert not list(tmp_path.rglob("eval-*.parquet"))
    done = cli(folder / "sums.toml", "--json")
    assert done.code == 0
    assert "model A: log-probabilities as of a plain forward pass" in done.err


def test_an_interruption_says_how_to_go_on(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*ignored: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reasoner.benchmarks.loop.open_engine", interrupt)
    stopped = cli(folder / "sums.toml")
    assert stopped.code == 130
    assert f"to resume from here: reasoner eval --resume {only(tmp_path)}" in stopped.out
    assert cli("--resume", only(tmp_path)).code == 130  # no part has begun, and it goes on as far as before


def test_two_processes_do_not_go_on_at_once(cli: Cli, killed: Path) -> None:
    with Lock(killed):
        refused = cli("--resume", killed)
    assert (refused.code, refused.err) == (2, f"error: {killed}: another process works on this evaluation.\n")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("trained/model.safetensors", "sums-B: model: model.safetensors: was sha256 "),
        ("sums.jsonl", "sums-B: prompts: was 12 rows, sha256 "),
        ("first.py", "sums-B: plugin first.py: was sha256 "),
    ],
)
def test_what_has_changed_since_is_not_mixed_in(cli: Cli, folder: Path, killed: Path, file: str, message: str) -> None:
    before = (folder / file).read_bytes()
    try:
        longer = before.replace(b"+ 1?", b"+ 2?") if b"+ 1?" in before else before + b"\n"
        weights = before[:-1] + bytes([before[-1] ^ 1])  # of as many bytes: others are refused as cut off
        (folder / file).write_bytes(weights if file.endswith(".safetensors") else longer)
        refused = cli("--resume", killed)
    finally:
        (folder / file).write_bytes(before)
    assert refused.code == 2
    assert "have changed since it started, so its results would be mixed" in refused.err
    assert message in refused.err


def test_what_is_wrong_is_said_before_anything_is_loaded(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoner.benchmarks.loop.open_engine", None)
    task, base = folder / "sums.toml", folder / "base"
    (folder / "other").mkdir(exist_ok=True)
    shutil.copy(task, folder / "other" / "sums.toml")
    (folder / "empty.toml").write_text(TASK.format(folder=folder).replace("data.eval", "data.train"))
    (folder / "run").mkdir(exist_ok=True)
    shutil.copytree(base, folder / "run" / "model", dirs_exist_ok=True)
    cases: list[tuple[list[object], str]] = [
        ([folder / "empty.toml"], "task 'empty' has nothing to evaluate on: data.eval is not set"),
        ([task, "--model", base, "--model", folder / "none"], "none"),
        ([task, "--model", base, "--model", f"{base}/../base"], "are the same"),
        ([task, "--model", base, "--model", base], f"sums with model {base} is named twice"),
        (
            [task, folder / "other" / "sums.toml"],
            "is named twice; name each task once, and give task files different names",
        ),
        ([task, "--samples", 2], "samples = 2 at temperature 0 gives the same response every time; raise temperature"),
        ([task, "--model", folder / "run"], "has no config.json: it is not a model in Hugging Face format"),
        ([task, "--set", "evaluation.max_tokens=500"], "takes 512 tokens, and task 'sums' needs"),
        ([], "nothing to evaluate. Name a TASK"),
        (["--resume", folder, "--samples", 2], "--resume continues an evaluation with its own configuration"),
        (["--resume", folder], "is not an evaluation that can be resumed: there is no"),
        ([task, "--set", f"data.eval.path={folder}/gone.jsonl"], "there is no data file"),
    ]
    for arguments, message in cases:
        refused = cli(*arguments)
        assert refused.code == 2, arguments
        assert message in refused.err
    assert not list(tmp_path.glob("*-eval-*"))
