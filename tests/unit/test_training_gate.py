"""The gate before training: its figures, what it advises, that it changes no step, and that it is made once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reasoner.distributed.ranks import ALONE
from reasoner.errors import DataError
from reasoner.evaluation.metrics import Criterion
from reasoner.evaluation.training_gate import PROBLEMS, TrainingGate, combine_gates, judge_gate
from reasoner.io.serialization import to_json
from reasoner.records import Component, Failure, Group, Message, Problem, Response, ScoredGroup
from reasoner.runs.clock import Clock
from reasoner.runs.folder import GATE, read_gate
from reasoner.training.trainer import Trainer

RESPONSE = Response("x", (1,), (True,), (0.0,), "stop", 0)
MATH = Criterion("math")
FAILED = Failure("math", "timeout", "no answer", 1.0)


def group(number: int, values: Sequence[float | None], extra: Sequence[float] = ()) -> ScoredGroup:
    """A problem with the values that `math` gave its responses, and what other rewards add; None: it failed."""
    problem = Problem(f"p:{number}", (Message("user", "?"),), "4")
    parts = tuple((Component("math", 1.0, value, failure=FAILED if value is None else None),) for value in values)
    added = extra or [0.0] * len(values)
    rewards = tuple(None if value is None else value + more for value, more in zip(values, added, strict=True))
    return ScoredGroup(Group(problem, (1,), (RESPONSE,) * len(values)), parts, rewards)


def gate(*right: int, size: int = 8, demonstrations: bool = False) -> TrainingGate:
    """Of groups with so many right responses each."""
    groups = [group(n, [1.0] * each + [0.0] * (size - each)) for n, each in enumerate(right)]
    return judge_gate(groups, MATH, demonstrations=demonstrations)


def test_the_gate_says_how_often_the_model_is_right_and_how_many_groups_differ() -> None:
    found = gate(0, 0, 0, 0, 2, 4, 8, 8)
    assert found.pass_1
    assert found.pass_group
    assert found.signal
    assert found.pass_1.value == pytest.approx(22 / 64)
    assert found.pass_group.value == 0.5
    assert found.signal.value == 0.25  # those that are always right have nothing to tell either
    assert all(0.0 < each.low < each.value < each.high < 1.0 for each in (found.pass_1, found.pass_group, found.signal))  # type: ignore[operator]
    assert found.sentence == (
        "Before training, on 8 training problems with 8 responses each: 34% [6 to 66] of the responses are right "
        "(pass@1, math); 50% [12 to 88] of the problems are solved at least once (pass@8); in 25% [7 to 59] of the "
        "groups the rewards differ, so that they carry a signal."
    )
    assert found.advice == ""


@pytest.mark.parametrize(
    ("right", "begins"),
    [
        ((0,) * 8, "The model is hardly ever right on these problems: almost nothing can be learnt. Take easier"),
        ((0,) * 7 + (1,), ""),  # 1 of 64: a group of 8 has a signal
        ((8,) * 7 + (7,), "The model is almost always right on these problems"),
        ((8,) * 7 + (4,), ""),  # 60 of 64
        ((0, 0, 0, 0, 8, 8, 8, 8), "In no group do the rewards differ"),
        ((4,) * 8, ""),
    ],
)
def test_it_warns_where_the_model_is_never_or_always_right(right: tuple[int, ...], begins: str) -> None:
    advice = gate(*right).advice
    assert advice.startswith(begins)
    assert bool(advice) == bool(begins)


def test_other_rewards_are_named_where_they_alone_can_be_learnt() -> None:
    groups = [group(n, [0.0] * 4, [0.5, 0.0, 0.0, 0.0]) for n in range(8)]
    found = judge_gate(groups, MATH, demonstrations=False)
    assert found.signal
    assert found.signal.value == 1.0
    assert "a run learns what the other rewards ask for, not to be right" in found.advice


def test_demonstrations_are_advised_where_there_are_none() -> None:
    never = (0,) * 8
    assert "demonstrations first" in gate(*never).advice
    assert "demonstrations" not in gate(*never, demonstrations=True).advice


def test_single_responses_have_nothing_to_be_compared_with() -> None:
    found = gate(1, 0, 0, 0, size=1)
    assert (found.signal, found.pass_group) == (None, None)
    assert found.sentence == (
        "Before training, on 4 training problems with 1 response each: 25% [5 to 70] of the responses are right "
        "(pass@1, math)."
    )
    assert gate(0, 0, 0, 0, size=1).advice.startswith("The model is hardly ever right")


def test_what_cannot_be_judged_is_said_and_not_taken_for_wrong() -> None:
    failed = judge_gate([group(n, [None] * 4) for n in range(8)], MATH, demonstrations=False)
    assert failed.pass_1 is None
    assert "how often the model is right is not known (no response was judged)" in failed.sentence
    assert failed.advice.startswith("In no group do the rewards differ")


@pytest.mark.parametrize("size", [1, 8])
def test_the_gate_of_a_mixture_is_that_of_all_its_groups(size: int) -> None:
    """Intervals included: whether rewards differ is a yes or no of a group, however many responses it has."""
    groups = [group(n, [1.0] * each + [0.0] * (size - each)) for n, each in enumerate((0, 0, 1, size, 0, 1, 0, size))]
    parts = {"words": groups[:3], "sums": groups[3:]}
    together = combine_gates({name: judge_gate(own, MATH, demonstrations=False) for name, own in parts.items()})
    whole = judge_gate(groups, MATH, demonstrations=False)
    assert (together.pass_1, together.pass_group, together.signal) == (whole.pass_1, whole.pass_group, whole.signal)
    assert together.problems == 8
    assert size == 1 or (whole.signal is not None and whole.signal.interval == "wilson")


def trainer(folder: Path, *, steps: int = 0, groups: Sequence[ScoredGroup] | None = (), demos: bool = False) -> Any:
    """A trainer with only what the gate needs. `groups`: what the collector gives; None: there is none."""
    asked: list[int] = []
    said: list[str] = []

    def sample_apart(count: int, progress: object) -> Sequence[ScoredGroup]:
        asked.append(count)
        return groups or ()

    run = SimpleNamespace(steps=steps, folder=folder, clock=Clock())
    run.commit_gate = lambda found: (folder / GATE).write_text(to_json(found))
    config = SimpleNamespace(
        evaluation=SimpleNamespace(),
        required_evaluation=SimpleNamespace(correct="math", threshold=1.0),
        conditions={},
        gro=SimpleNamespace(reads=lambda source: demos),
        mixture=[],
    )
    config.parts = {"words": config}
    return SimpleNamespace(
        run=run,
        config=config,
        ranks=ALONE,
        collector=None if groups is None else SimpleNamespace(sample_apart=sample_apart),
        view=SimpleNamespace(message=said.append, stage=lambda *args: None),
        sampler=SimpleNamespace(wake=lambda: None, publish=lambda: None),
        asked=asked,
        said=said,
    )


def pass_gate(made: Any) -> None:
    Trainer.try_training_problems(cast(Any, made))


def test_a_resumed_run_does_not_repeat_it(tmp_path: Path) -> None:
    made = trainer(tmp_path, groups=[group(n, [1.0, 0.0]) for n in range(8)])
    pass_gate(made)
    assert made.asked == [PROBLEMS]
    kept = read_gate(tmp_path)
    assert kept
    assert made.said == [kept.sentence]
    pass_gate(made)  # interrupted before its first step
    pass_gate(later := trainer(tmp_path / "elsewhere", steps=3))  # begun without it
    assert (made.asked, later.asked, later.said) == ([PROBLEMS], [], [])


def test_a_warning_stands_out(tmp_path: Path) -> None:
    made = trainer(tmp_path, groups=[group(n, [0.0, 0.0]) for n in range(8)])
    pass_gate(made)
    assert made.said[1].startswith("WARNING: The model is hardly ever right")


def test_a_method_that_samples_nothing_says_that_it_has_no_gate(tmp_path: Path) -> None:
    made = trainer(tmp_path, groups=None)
    pass_gate(made)
    assert made.said == ["no gate before training: the method reads data alone, no training problem is sampled"]
    assert read_gate(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "gate.json"),
        ("{}", r"gate.json: field problems"),
        ("[1]", "gate.json"),
        (to_json(gate(2, 4)).replace('"value": 0.375', '"value": 1e300'), "not between 0 and 1"),
        (to_json(gate(2, 4)).replace('"value": 0.375', '"value": "a"'), r"gate.json: field pass_1.value"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / GATE).write_text(text)
    with pytest.raises(DataError, match=said):
        read_gate(tmp_path)
