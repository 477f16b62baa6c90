"""Warnings: made-up runs in which one thing goes wrong, and healthy ones, made up and real, that must stay quiet."""

from __future__ import annotations

import gc
import json
import math
import random
import re
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from reasoner.evaluation.metrics import Estimate, Evaluation
from reasoner.io.metric_history import MetricHistory
from reasoner.loading.introspection import keys_of
from reasoner.monitoring.alarms import BACK, QUIET, RULES, AlarmMonitor, Evaluations, History, Warned

CURVES = [
    json.loads(line) for line in (Path(__file__).parent / "cases" / "curves.jsonl").read_text("utf-8").splitlines()
]
"""Runs of `scripts/validate_gro`'s task, `hot` with a learning rate 30 times too high, and of the laptop profile;
evaluations as (step, a bit per problem in hexadecimal)"""
Made = Sequence[tuple[int, Evaluation]]
BASE = {
    "reward/mean": 0.3,
    "reward/math/failed": 0.0,
    "response/entropy": 0.4,
    "response/length_mean": 200.0,
    "response/finished": 0.95,
    "groups/no_credit": 0.25,
    "gap/mean": 1e-5,
    "term/grpo/kl": 0.01,
}


def run(steps: int, **curves: Callable[[int], float]) -> list[dict[str, float]]:
    """The metrics of a run whose figures are BASE or the curves (`reward__mean` stands for `reward/mean`)."""
    named = {name.replace("__", "/"): curve for name, curve in curves.items()}
    return [BASE | {name: curve(step) for name, curve in named.items()} for step in range(1, steps + 1)]


def names(history: History, evaluations: Made = ()) -> list[str]:
    return [warned.name for warned in AlarmMonitor(history, evaluations).raised]


def only(history: History, evaluations: Made = ()) -> Warned:
    (warned,) = AlarmMonitor(history, evaluations).raised
    return warned


def evaluation(right: int, problems: int = 200, seed: int = 0) -> Evaluation:
    """The `right` easiest problems are solved, with a few mixed up by chance."""
    order = sorted(range(problems), key=lambda index: index + random.Random(f"{seed} {index}").uniform(0, 10))
    return accuracy([index in order[:right] for index in range(problems)])


def accuracy(right: Sequence[bool]) -> Evaluation:
    by_problem = {f"p:{index}": float(each) for index, each in enumerate(right)}
    mean = sum(right) / len(right)
    estimate = Estimate("avg@1", "share", mean, None, None, "none", by_problem)
    return Evaluation(len(right), 1, 0, (estimate, replace(estimate, name="reward/math", unit="reward")))


def ramp(first: float, last: float, steps: int) -> Callable[[int], float]:
    return lambda step: first + (last - first) * (step - 1) / (steps - 1)


BAD: Mapping[str, tuple[str, list[dict[str, float]], Sequence[str]]] = {
    "entropy falls": (
        "entropy collapse",
        run(40, response__entropy=lambda step: 0.6 * math.exp(-step / 8)),
        ["from 0.47 to 0.0", "link.high"],
    ),
    "entropy rises": ("entropy explosion", run(40, response__entropy=ramp(0.4, 6.0, 40)), ["rose", "learning_rate"]),
    "length collapses": ("length collapse", run(12, response__length_mean=ramp(120, 9, 12)), ["shrank", "`when`"]),
    "length explodes": (
        "length explosion",
        run(60, response__length_mean=lambda step: 100 * 1.05**step, reward__mean=ramp(0.4, 0.3, 60)),
        ["grew", "repetition"],
    ),
    "truncated from the start": ("truncated", run(8, response__finished=lambda _: 0.5), ["50%", "max_tokens"]),
    "truncated in time": ("truncated", run(30, response__finished=ramp(1.0, 0.5, 30)), ["cut", "mask_truncated"]),
    "KL explodes": (
        "KL",
        run(60, term__grpo__kl=lambda step: 0.02 * (1.0 if step < 30 else math.exp((step - 30) / 6))),
        ["20 steps ago", "gro.terms.grpo.kl.coefficient"],
    ),
    "KL is large at once": ("KL", run(4, term__grpo__kl=lambda step: 2.0 * step), ["nats per token", "learning_rate"]),
    "no credit, too hard": (
        "no credit",
        run(6, groups__no_credit=lambda _: 1.0, reward__mean=lambda _: 0.0),
        ["for 3 steps", "Easier"],
    ),
    "no credit, solved": (
        "no credit",
        run(20, groups__no_credit=lambda step: float(step > 15), reward__mean=ramp(0.1, 1.0, 20)),
        ["for 3 steps", "harder"],
    ),
    "dynamic sampling finds nothing": (
        "no credit",
        [{"groups/kept": 0.0, "groups/no_credit": 1.0}] * 3,
        ["for 3 steps"],
    ),
    "the gap grows": ("sampler gap", run(30, gap__mean=lambda step: 1e-5 + 5e-4 * step), ["grew", "check_every"]),
    "tools fail": ("tool failures", run(4, tools__failed=lambda _: 0.25), ["25% of the results", "timeout_s"]),
    "environments fail": (
        "tool failures",
        run(4, environment__failed=lambda _: 0.2, tools__failed=lambda _: 0.05),
        ["20% of the responses lost their environment", "memory_mb"],
    ),
    "the tool is given up": ("tools unused", run(16, tools__calls=ramp(1.5, 0.0, 16)), ["from 1.40 to 0.10", "need"]),
    "a reward fails": ("reward failures", run(9, reward__math__failed=lambda _: 0.3), ["math 30%", "timeout_s"]),
    "a reward never applies": (
        "not applicable",
        run(5, reward__math__not_applicable=lambda _: 1.0),
        ["math does not apply to any response", "plugins check"],
    ),
    "a reward with a condition never applies": (
        "not applicable",
        run(5, reward__math__not_applicable=lambda _: 1.0, reward__math__asked=lambda _: 0.1),
        ["math does not apply to any response"],
    ),
    "a reward begins to fail": (
        "reward failures",
        run(30, reward__math__failed=lambda step: 0.002 if step < 20 else 0.05),
        ["math 3.4%"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_goes_wrong_is_said_once_with_numbers_and_what_to_try(name: str) -> None:
    expected, history, parts = BAD[name]
    warned = only(history)
    assert warned.name == expected
    assert 1 <= warned.step <= len(history)
    for part in parts:
        assert part in f"{warned.what} {warned.advice}"
    for key in re.findall(r"\b[a-z_]+(?:\.[A-Za-z_]+)+", warned.advice):
        *table, name = key.replace("rewards.NAME", "rewards.entry").split(".")
        assert name in (keys_of(tuple(table)) or ()), key
    assert len(warned.what) < 120
    assert not warned.what.endswith(".")


def test_every_rule_has_a_bad_run() -> None:
    assert {expected for expected, _, _ in BAD.values()} | {"reward hacking"} == set(RULES)


def test_a_reward_that_the_evaluation_does_not_know_either_is_named_in_the_first_step() -> None:
    history = run(1, reward__math__not_applicable=lambda _: 1.0)
    answered = accuracy([True, False])
    silent = replace(answered, estimates=answered.estimates[:1])
    assert only(history, [(0, silent)]).name == "not applicable"
    assert names(history, [(0, answered)]) == []  # the step may hold no problem of its kind by chance
    assert names(history) == []
    for few in (2, 3):
        result = names(run(few, reward__math__not_applicable=lambda _: 1.0), [(0, answered)])
        assert result == (["not applicable"] if few == 3 else [])


GOOD: Mapping[str, list[dict[str, float]]] = {
    "nothing moves": run(100),
    "entropy falls as in most runs": run(200, response__entropy=lambda step: 0.12 + 0.4 * math.exp(-step / 30)),
    "an instruct model with little entropy": run(100, response__entropy=lambda _: 0.05),
    "reasoning grows with the reward": run(
        300, response__length_mean=ramp(300, 3000, 300), reward__mean=ramp(0.2, 0.7, 300)
    ),
    "a small model learns to stop": run(
        12,
        response__finished=ramp(0.4, 1.0, 12),
        response__length_mean=ramp(71, 27, 12),
        reward__mean=ramp(0.06, 0.5, 12),
    ),
    "KL grows slowly": run(500, term__grpo__kl=ramp(0.0, 0.4, 500)),
    "KL from nothing": run(40, term__grpo__kl=lambda step: 0.15 * (1 - math.exp(-step / 5))),
    "two steps without credit": run(40, groups__no_credit=lambda step: float(step % 4 < 2)),
    "gap of bfloat16": run(100, gap__mean=lambda step: 0.02 + 0.008 * math.sin(step)),
    "gap of float32 grows with the length": run(100, gap__mean=ramp(8e-6, 6e-5, 100)),
    "a judge that fails now and then": run(100, reward__math__failed=lambda step: 0.05 * (step % 3 == 0)),
    "a reward that is for every third step's problems": run(
        40, reward__math__not_applicable=lambda step: float(step % 3 > 0)
    ),
    "a reward that is rarely asked": [
        {name: value for name, value in metrics.items() if step % 9 == 0 or "not_applicable" not in name}
        for step, metrics in enumerate(run(40, reward__math__not_applicable=lambda _: 0.5))
    ],
    "tools and environments that fail now and then": run(
        40, tools__failed=lambda _: 0.19, environment__failed=lambda _: 0.09
    ),
    "fewer calls, and not none": run(40, tools__calls=ramp(1.5, 0.3, 40)),
    "a tool that was hardly called at the start": run(40, tools__calls=ramp(0.15, 0.0, 40)),
    "the tool is found": run(40, tools__calls=ramp(0.0, 1.0, 40)),
    "offline data alone": [{"term/dpo/loss": 0.6, "term/dpo/kl": 0.02, "update/applied": 1.0}] * 50,
    "figures that are not numbers": run(30, response__entropy=lambda _: math.nan, gap__mean=lambda _: math.nan),
    "one step": run(1, groups__no_credit=lambda _: 1.0),
    "no step": [],
}


@pytest.mark.parametrize("name", GOOD)
def test_healthy_runs_stay_quiet(name: str) -> None:
    evaluations = [
        (0, evaluation(40)),
        (10, evaluation(60)),
        (20, evaluation(61, seed=1)),
        (30, evaluation(58, seed=2)),
    ]
    assert names(GOOD[name]) == names(GOOD[name], evaluations) == []


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve["run"]))
def test_real_runs(curve: Any) -> None:
    metrics = curve["metrics"]
    history = [dict(zip(metrics, values, strict=True)) for values in zip(*metrics.values(), strict=True)]
    evaluations = [
        (step, accuracy([bit == "1" for bit in f"{int(bits, 16):0400b}"])) for step, bits in curve["evaluations"]
    ]
    if curve["run"] == "hot":
        assert {"KL", "no credit", "entropy explosion"} <= set(names(history, evaluations))
    else:
        assert names(history, evaluations) == []


def test_rewards_that_rise_while_the_evaluation_falls() -> None:
    history = run(60, reward__mean=ramp(0.2, 0.8, 60))
    made = [(0, 60), (10, 100), (20, 99), (30, 97), (40, 64), (50, 60)]
    warned = only(history, [(step, evaluation(right, seed=step)) for step, right in made])
    assert warned.name == "reward hacking"
    assert warned.step == 41  # the first step after two evaluations that are worse
    assert "accuracy 50% around step 20, 40% now" in warned.what
    falling = run(60, reward__mean=ramp(0.8, 0.2, 60))
    assert names(falling, [(step, evaluation(right, seed=step)) for step, right in made]) == []


def test_an_evaluation_that_varies_by_chance_is_no_reward_hacking() -> None:
    """48 problems, greedy answers that change at random: 300 runs of ten evaluations, at most 1% warn."""
    warned = 0
    for seed in range(300):
        rng = random.Random(seed)
        skill = [rng.random() for _ in range(48)]
        history = run(100, reward__mean=ramp(0.2, 0.8, 100))
        evaluations, findings = Evaluations(), []
        for step in range(0, 100, 10):
            evaluations.add(step, accuracy([rng.random() < each for each in skill]))
            findings.append(RULES["reward hacking"](history[: step + 1], evaluations))
        warned += any(findings)
    assert warned <= 3


def test_a_warning_holds_until_its_rule_has_been_quiet_for_some_steps() -> None:
    history = run(60, response__finished=lambda step: 0.5 if step < 10 or 15 <= step < 20 or step > 40 else 0.9)
    watch = AlarmMonitor()
    held = [[warned.step for warned in watch.look(metrics)] for metrics in history]
    assert [warned.step for warned in watch.raised] == [6, 43]
    first = [step for step, active in enumerate(held, 1) if 6 in active]
    assert first == list(range(6, first[-1] + 1))  # the second bad stretch belongs to the same warning
    assert first[-1] < 20 + QUIET + 3
    assert [step for step, active in enumerate(held, 1) if 43 in active] == list(range(43, 61))


def test_no_rule_goes_through_the_history_or_all_evaluations() -> None:
    """They are asked after every step: the last steps, the first, and some in between are all that they look at."""

    class Sliced(MetricHistory):
        def __iter__(self) -> NoReturn:
            raise AssertionError("the whole history was gone through")

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            assert not isinstance(key, slice) or len(part) <= 2 * BACK, "the whole history was copied"
            return part

    for _, history, _ in BAD.values():
        monitor = AlarmMonitor()
        made = [(step, evaluation(90, seed=step)) for step in range(0, len(history), 10)]
        monitor._histories[""] = Sliced()
        for step, metrics in enumerate(history, 1):
            if made and made[0][0] < step:
                monitor.evaluated(*made.pop(0))
            monitor.look(metrics)
        assert monitor.raised
        assert len(monitor._evaluations[""].pairs) <= 3


def test_a_run_that_is_gone_on_with_knows_what_it_warned_of() -> None:
    expected, history, _ = BAD["length explodes"]
    for stop in (BACK, 45, 55):
        watch = AlarmMonitor(history[:stop])
        for metrics in history[stop:]:
            watch.look(metrics)
        assert watch.raised == AlarmMonitor(history).raised
        assert watch.raised[0].name == expected


def test_a_step_leaves_little_behind() -> None:
    """A run keeps the metrics of every step twice: for its alarms and for its end. As dicts they took 26 KiB a step."""

    def metrics(step: int) -> dict[str, float]:
        return {f"part/{name}/mean": step + name / 7 for name in range(80)}  # names and numbers are new every time

    alarms, history = AlarmMonitor(), MetricHistory()
    for step in range(100):
        alarms.look(metrics(step))
        history.append(metrics(step))
    gc.collect()
    tracemalloc.start()
    for step in range(100, 200):
        alarms.look(metrics(step))
        history.append(metrics(step))
    gc.collect()
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left / 100 < 3 * 1024


def test_a_history_gives_back_what_it_was_given() -> None:
    steps = [{"a": 1.0, "b": math.inf}, {"b": 2.5}, {}, {"a": 3.0, "b": 4.0}]
    history = MetricHistory(steps[:2])
    for step in steps[2:]:
        history.append(step)
    assert list(history) == steps
    assert history[-2:] == steps[-2:]
    assert (len(history), history[1]) == (4, {"b": 2.5})
    with pytest.raises(IndexError):
        history[4]
