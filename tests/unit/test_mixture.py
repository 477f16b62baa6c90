"""Mixtures: the shares of tasks, what a step takes, what a checkpoint keeps, and whose rewards are whose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from reasoner.data.curriculum import Curriculum
from reasoner.data.mixture import WHOLE, Mixture, shares_of, weights_of
from reasoner.data.problems import Cursor, Stream
from reasoner.errors import DataError
from reasoner.evaluation.metrics import Evaluation, combine_evaluations, compare, estimate, task_of
from reasoner.gro.credit import credit
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.spec.terms import Advantage, Term
from reasoner.loading import load_config
from reasoner.monitoring.alarms import AlarmMonitor
from reasoner.monitoring.metrics import by_task, find, headline
from reasoner.monitoring.step_metrics import rollout_metrics
from reasoner.monitoring.summary import verdicts
from reasoner.records import Batch, Component, Group, Message, Problem, Response, ScoredGroup
from reasoner.runs.model import best_steps
from reasoner.training.evaluator import joined
from reasoner.training.objective_inputs import inputs_of

RESPONSE = Response("x", (1, 2), (True, True), (-0.5, -0.5), "stop", 0)


def problems(task: str, count: int) -> list[Problem]:
    return [Problem(f"{task}:{n}", (Message("user", "?"),), str(n), part=task) for n in range(count)]


def mixture(
    sizes: dict[str, int], weights: dict[str, float], *, adaptive: bool = False, curriculum: bool = False
) -> Mixture:
    streams = {name: Stream(problems(name, size), 1, 0, section=name, key="") for name, size in sizes.items()}
    choosers = {name: Curriculum(each, 0, 8) if curriculum else Cursor(each) for name, each in streams.items()}
    return Mixture(choosers, weights, adaptive=adaptive)


def taken(made: Mixture, steps: int, per_step: int) -> list[Problem]:
    return [problem for _ in range(steps) for problem in made.take(per_step)]


@pytest.mark.parametrize("per_step", [1, 4, 7])
@pytest.mark.parametrize(
    "weights",
    [
        {"a": 2.0, "b": 1.0},
        {"a": 0.1, "b": 0.2, "c": 0.7},
        {"a": 5.0, "b": 1.0, "c": 1.0, "d": 3.0},
        {"a": 1e-3, "b": 1},
    ],
)
def test_after_every_problem_each_task_has_had_its_share_but_for_less_than_one(
    weights: dict[str, float], per_step: int
) -> None:
    whole = sum(weights.values())
    seen: Counter[str] = Counter()
    for k, problem in enumerate(taken(mixture(dict.fromkeys(weights, 50), weights), 300 // per_step, per_step), 1):
        seen[problem.part] += 1
        for name, weight in weights.items():
            assert abs(seen[name] - k * weight / whole) < 1.0, (k, name)


def test_shares_by_size_take_every_problem_once_per_epoch() -> None:
    sizes = {"a": 7, "b": 2, "c": 11}
    order = taken(mixture(sizes, {name: float(size) for name, size in sizes.items()}), 15, 4)
    for epoch in (order[:20], order[20:40], order[40:60]):
        assert len({problem.id for problem in epoch}) == 20


def test_shares_add_up_whatever_the_weights() -> None:
    for weights in ({"a": 1 / 3, "b": 1 / 7, "c": 1e9}, {"a": 1e-30, "b": 1.0}, dict.fromkeys("abcdefg", 1.0)):
        assert sum(shares_of(weights).values()) == WHOLE


def test_one_task_takes_what_its_stream_alone_gives() -> None:
    for curriculum in (False, True):
        made = mixture({"a": 10}, {"a": 3.0}, curriculum=curriculum)
        stream = Stream(problems("a", 10), 1, 0, section="a", key="")
        alone = Curriculum(stream, 0, 8) if curriculum else Cursor(stream)
        for _ in range(8):
            expected = alone.take(4)
            assert made.take(4) == expected
            rates = {problem.id: float(problem.answer) / 9 for problem in expected}
            made.observe({"a": rates})
            alone.observe(rates)
        assert made.metrics == alone.metrics


def test_the_turn_of_a_task_that_has_no_more_goes_to_the_others_and_comes_back() -> None:
    made = mixture({"small": 2, "large": 50}, {"small": 1.0, "large": 1.0})
    first = made.take(8)
    assert Counter(problem.part for problem in first) == {"small": 2, "large": 6}
    assert len({problem.id for problem in first}) == 8
    rest = [made.take(1)[0].part for _ in range(6)]
    assert Counter(rest) == {"small": 5, "large": 1}
    assert made.take(99, first) != ()
    assert len(mixture({"a": 2, "b": 3}, {"a": 1.0, "b": 1.0}).take(9)) == 5


def test_a_refill_does_not_take_what_the_step_has() -> None:
    made = mixture({"a": 4, "b": 4}, {"a": 1.0, "b": 1.0})
    first = made.take(5)
    more = made.take(5, first)
    assert len({problem.id for problem in (*first, *more)}) == 8


@pytest.mark.parametrize("curriculum", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_resumed_mixture_goes_on_as_if_it_had_never_stopped(curriculum: bool, adaptive: bool) -> None:
    def made() -> Mixture:
        return mixture({"a": 5, "b": 9}, {"a": 2.0, "b": 1.0}, adaptive=adaptive, curriculum=curriculum)

    def step(each: Mixture) -> Sequence[Problem]:
        found = each.take(3)
        rates: dict[str, dict[str, float]] = {"a": {}, "b": {}}
        for problem in found:
            rates[problem.part][problem.id] = int(problem.answer) % 3 / 2
        each.observe(rates)
        return found

    whole, interrupted = made(), made()
    expected = [step(whole) for _ in range(20)]
    for _ in range(7):
        step(interrupted)
    interrupted.mark()
    step(interrupted)  # lost: it was not committed
    resumed = made()
    resumed.restore(interrupted.state())
    assert [step(resumed) for _ in range(13)] == expected[7:]


def test_weights_follow_what_a_task_has_to_teach_and_none_starves() -> None:
    made = mixture({"solved": 50, "learning": 50}, {"solved": 1.0, "learning": 1.0}, adaptive=True)
    for _ in range(60):
        found = made.take(2)
        rates = {"solved": 1.0, "learning": 0.5}
        made.observe({name: {p.id: rate for p in found if p.part == name} for name, rate in rates.items()})
    seen = Counter(problem.part for problem in taken(made, 55, 2))
    assert seen["solved"] == 10
    assert seen["learning"] == 100


def test_weights_of_a_configuration() -> None:
    fixed = load_config(["math-gsm8k=2", "code-stdin"], "laptop").config
    by_size = load_config(["math-gsm8k=size", "code-stdin=size"], "laptop").config
    sizes = {"math-gsm8k": 2000, "code-stdin": 1000}
    assert weights_of(fixed, sizes) == {"math-gsm8k": 2.0, "code-stdin": 1.0}
    assert weights_of(by_size, sizes) == {"math-gsm8k": 2000.0, "code-stdin": 1000.0}
    assert weights_of(load_config("math-gsm8k", "laptop").config, {}) == {"math-gsm8k": 1.0}


def test_a_task_must_have_its_share_of_a_step() -> None:
    with pytest.raises(DataError, match=r"mixture\.b\.data\.train has 1 rows"):
        Stream(problems("b", 1), math.ceil(8 / 3), 0, section="mixture.b.data.train", key="the part's share")


# What is measured: rewards of one task are not counted with those of another.


def scored(task: str, rewards: Sequence[float], *sources: tuple[str, float], n: int = 0) -> ScoredGroup:
    """A group whose responses have these rewards from every source."""
    group = Group(problems(task, n + 1)[n], (1,), (RESPONSE,) * len(rewards))
    rows = tuple(tuple(Component(source, weight, reward) for source, weight in sources) for reward in rewards)
    total = tuple(sum(weight * reward for _, weight in sources) for reward in rewards)
    return ScoredGroup(group, rows, total)


def test_metrics_are_of_every_task_and_in_total() -> None:
    groups = [scored("a", (1.0, 0.0), ("x", 1.0)), scored("b", (4.0, 4.0), ("x", 2.0), ("y", 1.0))]
    metrics = rollout_metrics(groups, {"a": {}, "b": {}})
    assert metrics["reward/mean"] == (0.5 + 12.0) / 2
    assert metrics["task/a/reward/mean"] == metrics["task/a/reward/x/mean"] == 0.5
    assert metrics["task/b/reward/x/mean"] == 4.0
    assert metrics["task/b/reward/x/weighted_mean"] == 8.0
    assert (metrics["task/a/groups/no_credit"], metrics["task/b/groups/no_credit"]) == (0.0, 1.0)
    assert (metrics["task/a/share"], metrics["task/b/share"]) == (0.5, 0.5)
    assert not [name for name in metrics if name.startswith(("reward/x", "reward/y"))]
    assert [find(name).name for name in metrics]  # each is documented
    assert headline(metrics) == ["reward/mean", "task/a/reward/mean", "task/b/reward/mean"]
    assert by_task(metrics)["b"]["reward/y/mean"] == 4.0
    with pytest.raises(KeyError):
        find("task/a/reward/x/maen")


def test_a_step_without_a_task_has_no_figures_of_it() -> None:
    metrics = rollout_metrics([scored("a", (1.0, 0.0), ("x", 1.0))], {"a": {}, "b": {}})
    assert metrics["task/b/share"] == 0.0
    assert not [name for name in metrics if name.startswith("task/b/reward")]


def test_an_alarm_of_one_task_names_it_and_the_others_stay_quiet() -> None:
    silent = {"task/a/groups/no_credit": 1.0, "task/b/groups/no_credit": 0.0, "groups/no_credit": 0.5}
    watch = AlarmMonitor([silent] * 4)
    assert [(warned.name, warned.step) for warned in watch.raised] == [("no credit (a)", 3)]
    assert watch.raised[0].what.startswith("a: all groups without credit")


# Credit: what is normalised, and over what.


def batch_credit(spec: Advantage, groups: Sequence[ScoredGroup]) -> list[float]:
    inputs = inputs_of(Batch(tuple(groups)))
    return [round(value, 4) for value in credit(Term(credit=spec), inputs, torch.empty(0, 2))[:, 0].tolist()]


MIXED = [
    scored("a", (1.0, 0.0), ("x", 1.0), n=0),
    scored("b", (30.0, 10.0), ("y", 1.0), n=0),
    scored("a", (1.0, 1.0), ("x", 1.0), n=1),
]


@pytest.mark.parametrize(
    "spec",
    [
        Advantage(scale="group"),
        Advantage(baseline="leave-one-out"),
        Advantage(scale="mean"),
        Advantage(scale="task"),
        Advantage(baseline="none", scale="task"),
        Advantage(scale="group", combine="normalise-then-sum"),
        Advantage(baseline="mean", combine="normalise-then-sum"),
    ],
)
def test_credit_in_a_mixture_is_that_of_each_task_alone(spec: Advantage) -> None:
    alone = {task: batch_credit(spec, [g for g in MIXED if g.group.problem.part == task]) for task in ("a", "b")}
    assert batch_credit(spec, MIXED) == [*alone["a"][:2], *alone["b"], *alone["a"][2:]]


def test_the_scale_of_the_batch_is_over_all_tasks() -> None:
    mixed = batch_credit(Advantage(baseline="none", scale="batch"), MIXED)
    assert max(mixed[:2]) < 0.0 < mixed[2]


def test_a_task_without_differences_gets_no_credit() -> None:
    groups = [scored("a", (1.0, 0.0), ("x", 1.0)), scored("b", (5.0, 5.0), ("x", 1.0))]
    for spec in (Advantage(scale="task"), Advantage(scale="group", combine="normalise-then-sum")):
        assert batch_credit(spec, groups)[2:] == [0.0, 0.0]


def test_one_source_with_other_weights_in_two_tasks_keeps_both() -> None:
    groups = [scored("a", (1.0, 0.0), ("x", 1.0), ("y", 0.5)), scored("b", (1.0, 0.0), ("y", 3.0))]
    inputs = inputs_of(Batch(tuple(groups)))
    assert inputs.component_weights_K is not None
    assert inputs.components_KNG is not None
    assert inputs.component_weights_K.tolist() == [1.0, 0.5, 3.0]
    assert inputs.components_KNG[2].tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_the_task_of_each_group_is_told_apart_only_where_there_are_several() -> None:
    def tasks(groups: Sequence[ScoredGroup]) -> Any:
        found = inputs_of(Batch(tuple(groups))).tasks_N
        return None if found is None else found.tolist()

    assert tasks(MIXED) == [0, 1, 0]
    assert tasks(MIXED[:1]) is None
    one = ObjectiveInputs(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool))
    assert one.tasks_N is None


# Evaluations of several tasks.


def evaluated(values: dict[str, float], correct: str = "x", samples: int = 1) -> Evaluation:
    figures = (estimate(f"avg@{samples}", "share", values, samples), estimate("reward", "reward", values, samples))
    return Evaluation(len(values), samples, 0, figures, correct)


def of_tasks(**tasks: Evaluation) -> Evaluation:
    return combine_evaluations(tasks)


def test_a_mixture_is_evaluated_per_task_and_in_total() -> None:
    whole = of_tasks(a=evaluated({"a:0": 1.0, "a:1": 0.0}), b=evaluated({"b:0": 1.0}))
    assert whole.accuracy is not None
    assert whole.accuracy.value == pytest.approx(2 / 3)
    assert [figure.name for figure in whole.figures] == [
        *("avg@1", "reward", "task/a/avg@1", "task/a/reward", "task/b/avg@1", "task/b/reward")
    ]
    found = whole.find("task/a/avg@1")
    assert found is not None
    assert found.value == 0.5
    mixed = of_tasks(a=evaluated({"a:0": 1.0}), b=evaluated({"b:0": 0.25}, samples=4))
    assert mixed.samples == 4
    assert mixed.accuracy is not None
    assert mixed.accuracy.value == 0.625


@pytest.mark.parametrize(("best", "expected"), [("", 0.25), ("mean", 0.5), ("a", 1.0), ("b", 0.0)])
def test_checkpoints_are_ranked_by_one_task_or_by_their_mean(best: str, expected: float) -> None:
    whole = of_tasks(a=evaluated({"a:0": 1.0}), b=evaluated({f"b:{n}": 0.0 for n in range(3)}))
    assert replace(whole, best=best).quality[0] == expected
    own = replace(evaluated({"own:0": 0.75}), tasks={"a": evaluated({"a:0": 0.25})}, best=best)
    assert own.quality[0] == {"": 0.75, "mean": 0.5, "a": 0.25, "b": -math.inf}[best]


@pytest.mark.parametrize("best", ["", "mean", "math-gsm8k"])
def test_an_evaluation_of_some_parts_is_not_ranked_against_one_of_all(best: str) -> None:
    sets = [f"evaluation.best={best}"] if best else []
    config = load_config(["math-gsm8k", "code-stdin"], "laptop", sets=sets).config
    easy, hard = evaluated({"math:0": 0.75}), evaluated({"code:0": 0.25})
    both, one = joined(config, {"math-gsm8k": easy, "code-stdin": hard}), joined(config, {"math-gsm8k": easy})
    assert both.quality[0] == {"": 0.5, "mean": 0.5, "math-gsm8k": 0.75}[best]
    assert one.quality[0] == (0.75 if best == "math-gsm8k" else -math.inf)  # its own figure is the same one in both
    assert best_steps({3: both, 6: one})[0] == 3
    assert (one.accuracy, one.find("task/math-gsm8k/avg@1") is not None) == (None, True)
    only = verdicts("", [], (both, one))
    assert [line for line in only if line.startswith("Accuracy")] == []
    assert [line for line in only if line.startswith("math-gsm8k: Accuracy")] != []


def test_accuracies_of_several_tasks_are_tested_with_holms_correction() -> None:
    right, wrong = ({f"{n}": float(value) for n in range(12)} for value in (1, 0))
    before = of_tasks(a=evaluated(wrong), b=evaluated({f"b{n}": 0.0 for n in range(3)}))
    after = of_tasks(a=evaluated(right), b=evaluated({"b0": 1.0, "b1": 0.0, "b2": 0.0}))
    by_name = {difference.name: difference for difference in compare(before, after)}
    assert by_name["avg@1"].holm is None  # the parts together are no test of their own
    a, b = by_name["task/a/avg@1"], by_name["task/b/avg@1"]
    assert a.holm == pytest.approx(2 * a.p)
    assert b.holm == b.p == 1.0
    assert by_name["task/a/reward"].holm is None
    single = {difference.name: difference for difference in compare(evaluated(wrong), evaluated(right))}
    assert single["avg@1"].holm is None


def test_names_of_tasks() -> None:
    assert task_of("task/a-b.c/reward/x/mean") == ("a-b.c", "reward/x/mean")
    assert task_of("reward/task/mean") == ("", "reward/task/mean")
