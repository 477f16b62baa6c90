"""`tool_use` and `environment` read the turns of a response and what its environment reported."""

from __future__ import annotations

from typing import Any

import pytest

from reasoner import ConfigError, Problem, Response
from reasoner.records import EnvironmentReport, ToolCall, Turn
from reasoner_rewards.environment import environment
from reasoner_rewards.tool_use import tool_use

GOOD, BAD = ToolCall("add", {"a": 1}), ToolCall("", error="no tool is named")


def response(*turns: tuple[str, tuple[ToolCall, ...]], report: EnvironmentReport | None = None) -> Response:
    """Turns of the policy, each with a result between it and the next."""
    made = [Turn("assistant", 2 * at, 2 * at + 1, text, calls) for at, (text, calls) in enumerate(turns)]
    results = [Turn("tool", turn.end, turn.end + 1, "\\boxed{1}", tool="add") for turn in made[:-1]]
    every = tuple(sorted([*made, *results], key=lambda turn: turn.first))
    tokens = max(len(every), 1)
    mask = tuple(at % 2 == 0 for at in range(tokens))
    text = made[-1].text if made else ""
    return Response(text, (1,) * tokens, mask, (0.0,) * tokens, "stop", 0, (), every, report or EnvironmentReport())


def used(made: Response, **options: Any) -> tuple[float, list[str]]:
    score = tool_use(Problem("p", (), ""), made, **tool_use.check_options(options))
    return score.value, score.parts["broken"]


def test_the_value_is_the_share_of_well_formed_calls() -> None:
    assert used(response(("x", (GOOD,)), ("y", (BAD, GOOD)), ("4", ()))) == (1.0 - 1 / 3, [])
    assert used(response(("x", (BAD,)), ("4", ()))) == (0.0, [])
    assert used(response(("4", ()))) == (1.0, [])


@pytest.mark.parametrize(
    ("calls", "options", "broken"),
    [
        (2, {"most": 2}, []),
        (3, {"most": 2}, ["more calls than most"]),
        (1, {"most": 0}, ["more calls than most"]),
        (1, {"least": 1}, []),
        (0, {"least": 1}, ["fewer calls than least"]),
    ],
)
def test_the_number_of_calls_is_bounded(calls: int, options: dict[str, int], broken: list[str]) -> None:
    made = response(*([("x", (GOOD,))] * calls), ("4", ()))
    assert used(made, **options) == (0.0 if broken else 1.0, broken)


def test_no_call_follows_the_answer() -> None:
    late = response(("so \\boxed{4}", (GOOD,)), ("let me see", (GOOD,)), ("\\boxed{5}", ()))
    assert used(late) == (0.0, ["a call after the answer"])
    assert used(response(("so it is 4", (GOOD,)), ("\\boxed{5}", ()))) == (1.0, [])  # a result is no answer
    assert used(late, answers=["Answer:"]) == (1.0, [])
    assert used(response(("Answer: 4", (GOOD,)), ("x", (GOOD,)), ("5", ())), answers=["Answer:"])[0] == 0.0


def test_it_does_not_apply_without_tools() -> None:
    assert tool_use(Problem("p", (), ""), Response("a", (1,), (True,), (0.0,), "stop", 0)) is None


@pytest.mark.parametrize("options", [{"answers": "boxed"}, {"least": -1}, {"least": 3, "most": 2}, {"some": 1}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="tool_use"):
        tool_use.check_options(options)


def test_an_environment_s_reward_is_its_sum() -> None:
    problem = Problem("p", (), "")
    score = environment(
        problem, response(("a", ()), ("b", ()), report=EnvironmentReport(0.75, {"won": True}, (-0.25, 1.0)))
    )
    assert (score.value, score.parts) == (0.75, {"turns": [-0.25, 1.0], "won": True})
    assert environment(problem, response(("a", ()))) is None
    assert environment(problem, Response("a", (1,), (True,), (0.0,), "stop", 0)) is None
