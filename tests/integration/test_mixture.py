"""Several tasks in one run, for real: one scoring service with the rewards of both, and a run that is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ScoringError
from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.planning.preflight import ready
from reasoner.records import Group, Message, Problem, Response, Rollout
from reasoner.runs.folder import read_evaluations, read_gate, read_metrics
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed
from reasoner.scoring.service import ScoringService
from reasoner.training.build import open_trainer
from tests.tiny import build_tiny_model, byte_tokenizer

PLUGIN = '''
from reasoner import hookimpl, reward

@reward("letters", cache=False)
def letters(problem, response, *, least: float = 0.3) -> float:
    """Whether enough of the response are letters."""
    return float(sum(c.isalpha() for c in response.text) >= least * len(response.text))

@reward("vowels", workers=1)
def vowels(problem, response) -> float:
    """How many vowels there are."""
    return float(sum(c in "aeiou" for c in response.text))

@hookimpl
def register_rewards():
    return [letters, vowels]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return tmp_path


def group(part: str, *texts: str) -> Group:
    problem = Problem(f"{part}:{len(texts)}", (Message("user", "?"),), "", part=part)
    return Group(problem, (1,), tuple(Response(text, (1,), (True,), (0.0,), "stop", 0) for text in texts))


def test_one_service_scores_each_task_by_its_own_rewards(folder: Path) -> None:
    """A source that both use has its own options, weight and condition in each, and its failures are told apart."""
    by_task = {
        "a": [RewardConfig(source="letters"), RewardConfig(source="vowels", weight=2.0, when="letters", max_calls=1)],
        "b": [RewardConfig(source="vowels"), RewardConfig(source="letters", weight=0.5, options={"least": 0.9})],
    }
    with ScoringService(by_task, ScoringConfig(max_failure_rate=1.0), [str(folder / "plugin.py")]) as service:
        groups = [group("b", "ae", "a1"), group("a", "ae", "11", "io")]
        result = {scored.group.problem.part: scored for scored in service.score(groups)}
        assert result["b"].rewards == (2.5, 1.0)
        assert [[part.source for part in row] for row in result["b"].components] == [["vowels", "letters"]] * 2
        assert result["a"].rewards[1] == 0.0  # its condition was not met
        assert sorted(str(reward) for reward in result["a"].rewards) == ["0.0", "5.0", "None"]  # one call is allowed
        statistics = service.statistics()
        assert {name: each.calls for name, each in statistics.items()} == {
            **{"letters of a": 3, "vowels of a": 2, "vowels of b": 2, "letters of b": 2}
        }
        assert (statistics["vowels of a"].failed, statistics["vowels of b"].failed) == (1, 0)
        assert service.state() == {"made": {"letters of a": 3, "vowels of a": 1, "vowels of b": 2, "letters of b": 2}}
        with pytest.raises(ScoringError, match="is of task 'c', and the scoring service has the rewards of a, b"):
            list(service.score([group("c", "x")]))


TASK = """
model.path = "{folder}/tiny"
data.train.path = "{name}.jsonl"
data.eval.path = "{name}-eval.jsonl"
sampling.engine = "hf"
sampling.group_size = 4
sampling.max_tokens = {tokens}
sampling.max_prompt_tokens = 256
gro.preset = "grpo"
learning.problems_per_step = 3
learning.learning_rate = 1e-3
rewards = [{{ source = "{source}" }}]
evaluation.correct = "{source}"
evaluation.every = 2
"""
WALKING = """
environment.name = "walk"
environment.format = "tags"
environment.options.turns = 2
"""
MIXTURE = """
evaluation.best = "mean"
[[mixture]]
task = "sums.toml"
weight = 2
[[mixture]]
task = "words.toml"
[[evaluation.also]]
task = "extra.toml"
samples = 2
temperature = 1.0
every = 2
"""


def run(folder: Path, output: str, steps: int) -> Path:
    """A run to its end, in this process; returns its folder."""
    sets = [f"run.steps={steps}", f"run.output={folder / output}"]
    resolved = load_config(folder / "mix.toml", sets=sets, plugins=[str(folder / "plugin.py")])
    with open_trainer(ready(resolved)) as trainer:
        return train(trainer, gate=True).parent


def resumed(folder: Path, steps: int) -> None:
    """The run in that folder, with more steps."""
    resolved, changes = load_resumed(folder, [f"run.steps={steps}"])
    with open_trainer(ready(resolved), Resume(folder, changes, accept=False)) as trainer:
        train(trainer)


def without_times(row: dict[str, float]) -> dict[str, float]:
    measured = ("time/", "idle/", "memory/", "tokens_per_s/")
    return {key: value for key, value in row.items() if not key.startswith(measured) and "/seconds" not in key}


def write_tasks(folder: Path) -> None:
    """The tiny model, and the tasks `sums`, `words` and `extra`."""
    build_tiny_model(folder / "tiny")
    for name, source, tokens in (("sums", "letters", 12), ("words", "vowels", 8), ("extra", "vowels", 6)):
        (folder / f"{name}.toml").write_text(TASK.format(folder=folder, name=name, source=source, tokens=tokens))
        for suffix, count in (("", 5), ("-eval", 3)):
            rows = [{"question": f"{name}{suffix} {n}?", "answer": "1"} for n in range(count)]
            (folder / f"{name}{suffix}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_in_which_each_task_has_its_own_environment_or_none(folder: Path) -> None:
    """Sampled as one batch, evaluated one after the other; what has no environment has no figures of one."""
    write_tasks(folder)
    walks = f"plugins = [{str(Path(__file__).with_name('walking_environment.py'))!r}]\n"
    (folder / "words.toml").write_text(walks + (folder / "words.toml").read_text() + WALKING)
    calculates = 'environment = { tools = ["calculator"], format = "tags" }\n'
    (folder / "extra.toml").write_text((folder / "extra.toml").read_text() + calculates)
    tasks = [str(folder / f"{name}.toml") for name in ("sums", "words", "extra")]
    sets = ["run.steps=1", f"run.output={folder / 'runs'}", "mixture.words.sampling.max_tokens=40"]
    sets.append("mixture.extra.sampling.max_prompt_tokens=448")  # its prompt tells of the tool
    resolved = load_config(tasks, sets=sets, plugins=[str(folder / "plugin.py")])
    with open_trainer(ready(resolved)) as trainer:
        done = train(trainer, gate=True).parent

    [metrics] = read_metrics(done)
    assert [name for name in ("sums", "words", "extra") if f"task/{name}/turns/mean" in metrics] == ["words", "extra"]
    assert metrics["task/words/turns/mean"] >= 1.0
    assert metrics["task/words/environment/failed"] == metrics["task/extra/environment/failed"] == 0.0
    files = sorted((done / "rollouts").glob("*.parquet"))
    rows: list[Any] = [each for file in files for each in read_parquet(file, Rollout)]
    assert {row.training for row in rows} == {True, False}
    for row in rows:
        assert (row.response.report is not None) is (row.problem.part != "sums")
        prompt = byte_tokenizer().decode(row.prompt_ids)
        assert ("You may walk." in prompt, "calculator" in prompt) == (
            row.problem.part == "words",
            row.problem.part == "extra",
        )
    assert "words" in (log := (done / "log.txt").read_text())
    assert "walk; at most 8 turns and 16 calls" in " ".join(log.split())


@pytest.mark.slow
def test_a_run_on_two_tasks_and_the_same_run_resumed(folder: Path) -> None:
    write_tasks(folder)
    (folder / "mix.toml").write_text(MIXTURE)
    once, again = run(folder, "once", 4), run(folder, "again", 2)
    resumed(again, 4)

    assert [*map(without_times, read_metrics(again))] == [*map(without_times, read_metrics(once))]
    assert (again / "model/model.safetensors").read_bytes() == (once / "model/model.safetensors").read_bytes()
    assert read_evaluations(again) == read_evaluations(once)
    check_what_it_left(once)


def check_what_it_left(once: Path) -> None:
    for metrics in read_metrics(once):
        assert metrics["task/sums/share"] == pytest.approx(2 / 3)
        assert metrics["task/words/share"] == pytest.approx(1 / 3)
        assert {"task/sums/reward/letters/mean", "task/words/reward/vowels/mean", "reward/mean"} <= set(metrics)
        assert not [name for name in metrics if name.startswith(("task/sums/reward/vowels", "reward/vowels"))]
    rows: list[Any] = [
        each for file in sorted((once / "rollouts").glob("step-*")) for each in read_parquet(file, Rollout)
    ]
    assert {row.problem.part: [part.source for part in row.components] for row in rows} == {
        **{"sums": ["letters"], "words": ["vowels"]}
    }
    limits = {"sums": 12, "words": 8}
    for task, limit in limits.items():
        assert max(len(row.response.token_ids) for row in rows if row.problem.part == task) == limit
    evaluations = read_evaluations(once)
    assert [evaluated.step for evaluated in evaluations] == [0, 2, 4]
    for evaluated in evaluations:
        evaluation = evaluated.evaluation
        assert (evaluation.problems, evaluation.best) == (6, "mean")
        assert {name: (task.problems, task.samples) for name, task in evaluation.tasks.items()} == {
            **{"sums": (3, 1), "words": (3, 1), "extra": (3, 2)}
        }
    gate = read_gate(once)
    assert gate is not None
    assert {name: each.problems for name, each in gate.tasks.items()} == {"sums": 5, "words": 5}
    log = (once / "log.txt").read_text()
    assert "66.7% of the problems, 5 from" in " ".join(log.split())
    assert "after Holm's correction for the tasks" in " ".join(log.split())
