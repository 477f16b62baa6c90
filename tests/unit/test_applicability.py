"""When a run ends because its reward sources never answer, and when it goes on: sources for a part of the problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from reasoner.config import Config, EvaluationConfig, RewardConfig
from reasoner.evaluation.metrics import Criterion, summarise
from reasoner.records import Component, Failure, Group, Message, Problem, Response, ScoredGroup
from reasoner.training.guards.applicability import unjudged_reason, unrewarded_reason

FAILED = Failure("x", "error", "503", 0.1)
RESPONSE = Response("x", (1,), (True,), (0.0,), "stop", 0)


def config(*rewards: RewardConfig, correct: str = "sums", plugins: Sequence[str] = ()) -> Config:
    evaluation = EvaluationConfig(correct=correct)
    return Config.model_construct(rewards=list(rewards), evaluation=evaluation, plugins=list(plugins))


def groups(**values: Sequence[float | str | None]) -> list[ScoredGroup]:
    """One response to each problem, with each source's values: None, or `failed`."""
    rows = zip(*values.values(), strict=True)
    return [
        ScoredGroup(
            Group(Problem(f"p:{n}", (Message("user", "?"),), ""), (1,), (RESPONSE,)),
            (tuple(_component(name, value) for name, value in zip(values, row, strict=True)),),
            (0.0,),
        )
        for n, row in enumerate(rows)
    ]


def _component(name: str, value: float | str | None) -> Component:
    if isinstance(value, str):
        return Component(name, 1.0, None, failure=FAILED)
    return Component(name, 1.0, value)


SUMS, WORDS, FORMAT = (RewardConfig(source=name) for name in ("sums", "words", "format"))
GATE = RewardConfig(source="gate", gate=True)
WHEN = RewardConfig(source="sums", when="format")


@pytest.mark.parametrize(
    ("rewards", "values", "blamed"),
    [
        ([SUMS], {"sums": [None, None]}, "sums"),
        ([FORMAT, SUMS], {"format": [1.0, 0.0], "sums": [None, None]}, "sums"),
        ([SUMS], {"sums": [None, 0.0]}, ""),
        ([SUMS], {"sums": ["failed", "failed"]}, ""),  # a failure is said as one
        ([SUMS], {"sums": ["failed", None]}, "sums"),
        ([FORMAT, WHEN], {"format": [0.0, 0.0], "sums": [None, None]}, ""),  # never called: all wrong
        ([FORMAT, WHEN], {"format": [1.0, 1.0], "sums": [None, None]}, "sums"),
        ([FORMAT, WHEN], {"format": [None, None], "sums": [None, None]}, "format"),
        ([SUMS, WORDS], {"sums": [1.0, None], "words": [None, None]}, ""),  # it does not decide
    ],
)
def test_an_evaluation_without_any_verdict_names_the_source_that_never_answers(
    rewards: list[RewardConfig], values: Mapping[str, Sequence[float | str | None]], blamed: str
) -> None:
    result = unjudged_reason(config(*rewards, plugins=["my own.py"]), groups(**values))
    assert bool(result) == bool(blamed)
    if blamed:
        assert f"reward source '{blamed}' has nothing to say about any of the 2 responses" in result
        assert f"`reasoner plugins check {blamed} --plugin 'my own.py'` tries it" in result


@pytest.mark.parametrize(
    ("rewards", "values", "ends"),
    [
        ([SUMS], {"sums": [None, None]}, True),
        ([SUMS, WORDS], {"sums": [None, None], "words": [None, None]}, True),
        ([SUMS, WORDS], {"sums": [None, None], "words": [None, 0.0]}, False),  # the batch is of the other kind
        ([SUMS, GATE], {"sums": [None, None], "gate": [1.0, 1.0]}, True),  # a gate adds nothing
        ([SUMS, RewardConfig(source="words", weight=0.0)], {"sums": [None, None], "words": [1.0, 1.0]}, True),
        ([SUMS], {"sums": ["failed", "failed"]}, False),
        ([SUMS], {"sums": ["failed", None]}, True),
        ([RewardConfig(source="sums", weight=0.0)], {"sums": [None, None]}, False),
        ([FORMAT, WHEN], {"format": [0.0, 0.0], "sums": [None, None]}, False),
    ],
)
def test_a_first_step_ends_where_nothing_that_adds_to_the_reward_answers(
    rewards: list[RewardConfig], values: Mapping[str, Sequence[float | str | None]], ends: bool
) -> None:
    result = unrewarded_reason(config(*rewards), groups(**values), None)
    assert bool(result) == ends
    assert not ends or "there is nothing to learn from" in result


def test_a_source_for_a_part_of_the_problems_may_have_none_of_them_in_the_first_step() -> None:
    """The evaluation tells it from a source that never answers, and from one that should have."""
    silent = groups(sums=[None, None])

    def before(*values: float | None) -> str:
        evaluation = summarise(groups(sums=values), 1, Criterion("sums"))
        return unrewarded_reason(config(SUMS), silent, evaluation)

    assert before(1.0, None, 0.0) == ""
    assert before(1.0, 0.0, 0.0)
    assert before(None, None, None)
