"""Saved responses scored again: what is read, what is compared, and credit against a reference of its own."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reasoner.__main__ import main
from reasoner.benchmarks.rescore import Rescoring, SavedBatch, config_for, load_saved, rescore, saved_path
from reasoner.cli import progress
from reasoner.config import Config, EvaluationConfig
from reasoner.errors import DataError, UserError
from reasoner.gro.spec.registry import BUILT_IN
from reasoner.io.parquet import write_parquet
from reasoner.io.serialization import write_jsonl
from reasoner.loading import load_config, to_toml
from reasoner.records import Component, Failure, Group, Rollout, ScoredGroup
from reasoner.testing.cases import make_problem, make_response

PLUGIN = '''
from reasoner import Score, hookimpl, reward


@reward("number", timeout_s=5.0)
def number(problem, response, *, factor: float = 1.0) -> Score:
    """The number in the response."""
    if response.text == "raise":
        raise LookupError("no number")
    return Score(factor * float(response.text), note=f"times {factor}")


@hookimpl
def register_rewards():
    return [number]
'''


def config(*sets: str) -> Config:
    return load_config("math-gsm8k", "laptop", sets=sets).config


def group(name: str, values: Mapping[str, float | None], step: int = 1, credit: float | None = 0.0) -> list[Rollout]:
    """A saved group: the texts of its responses and their rewards, all of one source."""
    problem = replace(make_problem("?", "1"), id=name)
    return [
        Rollout(step, problem, (1, 2), sample, make_response(text), (Component("number", 1.0, value),), value, credit)
        for sample, (text, value) in enumerate(values.items())
    ]


def saved(path: Path, *groups: Sequence[Rollout]) -> list[SavedBatch]:
    write_jsonl(path, [rollout for group in groups for rollout in group])
    return load_saved(path)


class Judge:
    """A scorer without processes: a value, or a failure, by text."""

    def __init__(self, values: Mapping[str, float | None], weight: float = 1.0) -> None:
        self._values, self._weight = values, weight
        self.calls = 0

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        self.calls += 1
        for group in reversed(list(groups)):  # as workers do: in any order
            values = [self._values[response.text] for response in group.responses]
            parts = tuple((self._part(value),) for value in values)
            yield ScoredGroup(group, parts, tuple(None if v is None else self._weight * v for v in values))

    def _part(self, value: float | None) -> Component:
        failure = Failure("number", "error", "why", 0.1) if value is None else None
        return Component("number", self._weight, value, note="new", failure=failure)


def compared(batches: Sequence[SavedBatch], values: Mapping[str, float | None], *sets: str) -> Rescoring:
    return rescore(batches, Judge(values), config(*sets), BUILT_IN, lambda done: None)


def test_what_was_saved_is_read_back_in_batches(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "rollouts").mkdir(parents=True)
    first = [*group("a", {"1": 1.0, "2": 0.0}), *group("b", {"1": 1.0, "3": None})]
    write_parquet(folder / "rollouts" / "step-000001.parquet", first)
    write_parquet(folder / "rollouts" / "step-000002.parquet", group("a", {"4": 0.0}, step=2))
    write_parquet(folder / "rollouts" / "eval-000000.parquet", group("a", {"5": 0.0}, step=0, credit=None))
    batches = load_saved(folder)
    assert [(batch.step, batch.training, len(batch.groups)) for batch in batches] == [
        (0, False, 1),
        (1, True, 2),
        (2, True, 1),
    ]
    assert batches[1].groups[1].rewards == (1.0, None)
    assert [response.text for response in batches[1].groups[0].group.responses] == ["1", "2"]
    assert load_saved(folder / "rollouts" / "step-000001.parquet") == [batches[1]]
    write_jsonl(tmp_path / "same.jsonl", first)
    assert load_saved(tmp_path / "same.jsonl") == [batches[1]]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_saved(tmp_path / "none")
    with pytest.raises(UserError, match="has no saved responses"):
        load_saved(tmp_path)
    (tmp_path / "x.csv").touch()
    with pytest.raises(UserError, match=r"which ends in \.parquet or \.jsonl"):
        load_saved(tmp_path / "x.csv")
    (tmp_path / "x.jsonl").touch()
    with pytest.raises(DataError, match="holds no rollouts"):
        load_saved(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"step 1: the samples of problem 'a' must be counted from 0 .* got \[0, 0\]"):
        saved(tmp_path / "twice.jsonl", group("a", {"1": 1.0}), group("a", {"1": 1.0}))


def test_every_figure_of_a_comparison(tmp_path: Path) -> None:
    batches = saved(
        tmp_path / "x.jsonl",
        group("same", {"1": 1.0, "2": 2.0}),
        group("shifted", {"3": 3.0, "4": 4.0}),
        group("turned", {"5": 5.0, "6": 6.0}),
        group("tied", {"7": 7.0, "8": 8.0}),
        group("lost", {"9": 9.0, "10": None}, step=2),
    )
    values = {"1": 1.0, "2": 2.0, "3": 13.0, "4": 14.5, "5": 5.0, "6": 4.0, "7": 8.0, "8": 8.0, "9": None, "10": 1.0}
    result = compared(batches, values)
    assert (result.groups, result.reordered) == (5, 2)
    total = result.components[-1]
    assert (total.name, total.changed) == ("total", 6)
    assert total.old_mean == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9) / 9)
    assert total.new_mean == pytest.approx((1 + 2 + 13 + 14.5 + 5 + 4 + 8 + 8 + 1) / 9)
    assert [replace(each, name="total") for each in result.components] == [total, total]
    assert [(change.problem, change.sample) for change in result.largest(4)] == [
        ("lost", 0),
        ("lost", 1),
        ("shifted", 1),
        ("shifted", 0),
    ]
    assert len(result.largest(100)) == 6
    assert result.largest(4)[2].note == "number 4 -> 14.5 (new)"
    assert result.largest(1)[0].note == "number 9 -> error: why (new)"
    assert result.failures == {"number": 1}


def credits_of(rewards: Sequence[float | None]) -> list[float]:
    """GRPO's credit, from its formula: (R - mean) / (std + 1e-4) over valid responses, 0 for the others."""
    valid = [reward for reward in rewards if reward is not None]
    if len(set(valid)) < 2:
        return [0.0] * len(rewards)
    mean, deviation = statistics.fmean(valid), statistics.stdev(valid)
    return [0.0 if reward is None else (reward - mean) / (deviation + 1e-4) for reward in rewards]


def test_credit_is_that_of_the_method_on_old_and_new_rewards(tmp_path: Path) -> None:
    old: dict[str, dict[str, float | None]] = {
        "a": {"1": 1.0, "2": 2.0, "3": 6.0},
        "b": {"4": 1.0, "5": 1.0, "6": 1.0},
        "c": {"7": 1.0, "8": None, "9": 0.0},
    }
    new: dict[str, list[float | None]] = {"a": [1.0, 9.0, 6.0], "b": [1.0, 0.0, 1.0], "c": [1.0, 2.0, None]}
    batches = saved(tmp_path / "x.jsonl", *(group(name, values) for name, values in old.items()))
    values = {text: value for name in old for text, value in zip(old[name], new[name], strict=True)}
    result = compared(batches, values)
    before = [credit for name in old for credit in credits_of(list(old[name].values()))]
    after = [credit for name in old for credit in credits_of(new[name])]
    assert [change.old_credit for change in result.changes] == pytest.approx(before)
    assert [change.new_credit for change in result.changes] == pytest.approx(after)
    signs = [((a > 0) - (a < 0)) != ((b > 0) - (b < 0)) for a, b in zip(before, after, strict=True)]
    assert (result.credits, result.turned, result.no_credit) == (9, sum(signs), "")
    assert 0 < result.turned < 9


def test_credit_is_per_step_and_leaves_out_evaluations(tmp_path: Path) -> None:
    batches = saved(
        tmp_path / "x.jsonl",
        group("a", {"1": 1.0, "2": 0.0}, step=1),
        group("a", {"1": 5.0, "2": 1.0}, step=2),
        group("a", {"1": 1.0, "2": 0.0}, step=2, credit=None),
    )
    result = compared(batches, {"1": 0.0, "2": 1.0}, "gro.preset=reinforce++-baseline")
    assert [change.old_credit for change in result.changes] == pytest.approx([1, -1, 1, -1, None, None])
    assert (result.credits, result.turned, result.reordered) == (4, 4, 3)


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        (["gro.preset=ppo"], "critic"),
        (["gro.preset=remax"], "greedy"),
        (["gro.preset=reinforce++", "gro.terms.reinforce++.kl.coefficient=0.1"], "reference policy"),
    ],
)
def test_credit_that_needs_what_is_not_saved_is_not_made_up(tmp_path: Path, sets: list[str], reason: str) -> None:
    batches = saved(tmp_path / "x.jsonl", group("a", {"1": 1.0, "2": 0.0}))
    result = compared(batches, {"1": 0.0, "2": 1.0}, *sets)
    assert reason in result.no_credit
    assert (result.credits, result.turned, result.reordered) == (0, 0, 1)


def test_groups_of_different_sizes_and_evaluations_have_no_credit(tmp_path: Path) -> None:
    ragged = saved(tmp_path / "x.jsonl", group("a", {"1": 1.0, "2": 0.0}), group("b", {"1": 1.0}))
    assert compared(ragged, {"1": 0.0, "2": 1.0}).no_credit == "the groups have different sizes"
    evaluation = saved(tmp_path / "y.jsonl", group("a", {"1": 1.0}, credit=None))
    assert compared(evaluation, {"1": 0.0}).no_credit == "these are responses of evaluations"


def test_every_step_is_one_call_of_the_scorer(tmp_path: Path) -> None:
    batches = saved(
        tmp_path / "x.jsonl", group("a", {"1": 1.0}), group("b", {"1": 1.0}), group("a", {"1": 1.0}, step=2)
    )
    judge, done = Judge({"1": 1.0}), list[int]()
    rescore(batches, judge, config(), BUILT_IN, done.append)
    assert (judge.calls, done) == (2, [2, 3])


def test_the_configuration_is_the_run_s_own_changed_by_what_is_given(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    (run / "config.toml").write_text(to_toml(config("run.seed=5")))
    inner = run / "rollouts" / "step-000001.parquet"
    more = tmp_path / "more.toml"
    more.write_text("[rewards.math.options]\nextract = 'lenient'\n")
    for path in (run, inner):
        result = config_for(path, [more], ["rewards.math.weight=3.0"]).config
        assert result.run.seed == 5
        assert (result.rewards[0].weight, result.rewards[0].options) == (3.0, {"extract": "lenient"})
    other = tmp_path / "other.toml"
    other.write_text("run.seed = 6\n")
    result = config_for(run, [more, other]).config
    assert (result.run.seed, result.rewards[0].options) == (6, {"extract": "lenient"})
    alone = tmp_path / "alone.jsonl"
    with pytest.raises(UserError, match=r"there is no config.toml beside .*alone.jsonl.* give .* with --config FILE"):
        config_for(alone, ())
    assert config_for(alone, [run / "config.toml"]).config.run.seed == 5
    assert config_for(alone, [run / "config.toml", other]).config.run.seed == 6


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reasoner", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one step, scored by a plugin's source with factor 1."""
    plugin = tmp_path / "number.py"
    plugin.write_text(PLUGIN)
    folder = tmp_path / "20260101-120000-math-gsm8k"
    (folder / "rollouts").mkdir(parents=True)
    resolved = load_config(
        "math-gsm8k",
        "laptop",
        sets=["rewards=[{source = 'number'}]", "evaluation.correct=number", "scoring.max_failure_rate=1.0"],
        plugins=[str(plugin)],
    )
    (folder / "config.toml").write_text(to_toml(resolved.config))
    rollouts = [*group("p:1", {"1": 1.0, "-2": -2.0}), *group("p:2", {"0": 0.0, "raise": None})]
    write_parquet(folder / "rollouts" / "step-000001.parquet", rollouts)
    return folder


def test_score_with_the_same_rewards_changes_nothing(cli: Cli, run: Path) -> None:
    code, out, err = cli("score", str(run))
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[:3] == [
        ["reward", "old", "mean", "new", "mean", "changed"],
        ["number", "-0.3333", "-0.3333", "0", "of", "4"],
        ["total", "-0.3333", "-0.3333", "0", "of", "4"],
    ]
    assert "groups ranked differently 0 of 2 credits that change sign 0 of 4" in " ".join(out.split())
    assert "No reward changed." in out


def test_score_takes_the_beginning_of_a_run_s_name_as_other_commands_do(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "status.json").write_text("{}")
    runs = run.parent / "runs"
    runs.mkdir()
    run.rename(runs / run.name)
    monkeypatch.chdir(run.parent)
    code, out, err = cli("score", "20260101")
    assert (code, err) == (0, "")
    assert "No reward changed." in out
    assert saved_path(str(runs / run.name)) == runs / run.name
    assert saved_path("20260101-12") == Path("runs") / run.name
    with pytest.raises(UserError, match=r"there is no run '2027', as a path or below runs/"):
        saved_path("2027")
    with pytest.raises(UserError, match=r"there is no file .*2026\.jsonl"):
        load_saved(saved_path("2026.jsonl"))


def test_the_run_s_plugin_is_executed_once_in_each_process_of_score(cli: Cli, run: Path, tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    counting = f"import os\nwith open({str(executed)!r}, 'a') as file:\n    print(os.getpid(), file=file)\n"
    (tmp_path / "number.py").write_text(counting + PLUGIN)
    assert cli("score", str(run))[0] == 0
    processes = executed.read_text().split()
    assert str(os.getpid()) in processes
    assert len(processes) == len(set(processes)) == 2  # the host of the workers is the other


def test_score_with_another_weight_says_so_for_every_response(cli: Cli, run: Path) -> None:
    code, out, err = cli("score", str(run), "--set", "rewards.number.weight=3.0")
    assert (code, err) == (0, "")
    shown = out.partition("Largest changes\n")[2].splitlines()
    assert [line.strip() for line in shown[1::2]] == ["number -2, weight 1 -> 3", "number 1, weight 1 -> 3"]
    assert not [line for line in shown if not line.strip()]


def test_score_with_other_rewards_says_what_they_do(cli: Cli, run: Path, tmp_path: Path) -> None:
    output = tmp_path / "all.jsonl"
    code, out, err = cli("score", str(run), "--set", "rewards.number.options.factor=-2.0", "--output", str(output))
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "number -0.3333 0.6667 2 of 4" in text
    assert "groups ranked differently 1 of 2" in text
    assert "correct (number) 25.0% -> 25.0%, over 2 of 2 groups, judged before and now" in text
    assert "credits that change sign 2 of 4" in text
    assert "p:1, sample 1, step 1: -2 -> 4 number -2 -> 4 (times -2.0)" in text
    assert text.index("p:1, sample 1") < text.index("p:1, sample 0")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["problem"], row["sample"], row["old"], row["new"]) for row in rows] == [
        ("p:1", 0, 1.0, -2.0),
        ("p:1", 1, -2.0, 4.0),
        ("p:2", 0, 0.0, -0.0),
        ("p:2", 1, None, None),
    ]
    assert [line for line in out.splitlines() if len(line) > 80 and str(output) not in line] == []


def test_score_without_a_configuration_says_what_to_give(cli: Cli, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", group("a", {"1": 1.0}))
    code, _, err = cli("score", str(tmp_path / "x.jsonl"))
    assert code == 2
    assert "give a task file or a complete configuration with --config FILE" in err


def test_progress_is_a_line_in_a_pipe_and_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    with progress.counting() as count:
        count("responses", 8)(3)
    assert capsys.readouterr() == ("", "  responses 3/8\n")
    monkeypatch.setattr(progress, "QUIET_S", 60.0)
    with progress.counting() as count:
        count("responses", 8)(3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress.counting() as count:
        count("responses", 8)(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/8" in err


def test_dropped_groups_are_scored_again_and_have_no_credit_as_in_the_run(tmp_path: Path) -> None:
    """Dynamic sampling: `b` had no differences and gets some, `a` loses its own; credit is whitened over what is
    kept."""
    gone = [replace(row, dropped=True) for row in group("b", {"3": 0.0, "4": 0.0}, credit=None)]
    batches = saved(tmp_path / "x.jsonl", group("a", {"1": 1.0, "2": 0.0}), gone, group("c", {"5": 1.0, "6": 0.0}))
    (batch,) = batches
    assert (batch.training, len(batch.groups)) == (True, 3)
    values = {"1": 1.0, "2": 1.0, "3": 1.0, "4": 0.0, "5": 0.0, "6": 1.0}
    result = compared(batches, values, "gro.preset=reinforce++-baseline", "sampling.refills=2")
    assert [change.old_credit for change in result.changes] == pytest.approx([1, -1, 0, 0, 1, -1])
    assert [change.new_credit for change in result.changes] == pytest.approx([0, 0, 1, -1, -1, 1])
    total = result.components[-1]
    assert total.name == "total"
    assert [total.old_mean, total.new_mean] == pytest.approx([2 / 6, 4 / 6])
    nothing = saved(tmp_path / "y.jsonl", gone)
    assert [change.old_credit for change in compared(nothing, values, "sampling.refills=2").changes] == [0, 0]


def test_correctness_is_over_the_groups_that_both_scorings_judged(tmp_path: Path) -> None:
    """In group b the old source had nothing to say, in group c the new one fails on everything."""
    saved_groups = [
        group("a", {"1": 1.0, "2": 0.0}),
        group("b", {"1": None, "3": None}),
        group("c", {"4": 1.0, "5": 1.0}),
        group("a", {"2": 0.0, "3": 0.0}, step=2),  # the same problem at another step is another group
    ]
    batches = saved(tmp_path / "x.jsonl", *saved_groups)
    values = {"1": 0.9, "2": 0.8, "3": 0.0, "4": None, "5": None}
    evaluation = EvaluationConfig(correct="number", threshold=0.8)
    of_number = config().model_copy(update={"evaluation": evaluation})
    result = rescore(batches, Judge(values), of_number, BUILT_IN, lambda done: None).correctness
    assert result is not None
    assert (result.old, result.new, result.groups) == (0.25, 0.75, 2)
    assert str(result.correct) == "number >= 0.8"
    assert compared(batches, values).correctness is None  # `math` decides there, and is not among the rewards
