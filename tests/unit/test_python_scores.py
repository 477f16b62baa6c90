"""`reasoner.score`: rows, frames and runs under sources of a notebook, in real worker processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reasoner
from reasoner.api.rows import groups_of
from reasoner.errors import ConfigError, UserError
from tests.made_up import made_up_run
from tests.notebook import Cells

SOURCES = """
from reasoner import Score, reward

UNIT = "km"


@reward("unit")
def unit(problem, response, *, worth: float = 1.0):
    return Score(worth * (UNIT in response.text), note=problem.fields.get("hint", problem.answer))


@reward("best", granularity="group")
def best(problem, responses):
    longest = max(len(each.text) for each in responses)
    return [float(len(each.text) == longest) for each in responses]


@reward("hangs", timeout_s=0.5)
def hangs(problem, response):
    while "km" in response.text:
        pass
    return 1.0


@reward("fails")
def fails(problem, response):
    print("looking at", response.text)
    return 1 / 0
"""
ROWS = [
    {"question": "far?", "answer": "5 km", "response": "5 km"},
    {"question": "far?", "answer": "5 km", "response": "five miles"},
    {"question": "far?", "answer": "6 km", "response": "6", "hint": "six"},
]


@pytest.fixture(scope="module")
def sources() -> dict[str, Any]:
    cells = Cells()
    cells.run(SOURCES)
    return cells.namespace


@pytest.fixture
def _nothing_stays() -> Iterator[None]:
    environment, threads = {**os.environ, "PYTEST_CURRENT_TEST": ""}, threading.active_count()
    modules = set(sys.modules)
    yield
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == environment
    assert threading.active_count() == threads
    assert not [name for name in set(sys.modules) - modules if name.startswith("reasoner_plugin_")]


@pytest.mark.usefixtures("_nothing_stays")
def test_rows_are_scored_by_functions_in_killable_workers(sources: dict[str, Any]) -> None:
    rewards = [{"source": sources["unit"], "weight": 2.0, "options": {"worth": 0.5}}, sources["best"], sources["hangs"]]
    scores = reasoner.score(ROWS, rewards)
    assert scores.rewards == [None, 2.0, 2.0]
    frame = scores.frame
    assert frame["reward/unit"].tolist() == [0.5, 0.0, 0.0]
    assert frame["note/unit"].tolist() == ["5 km", "5 km", "six"]
    assert frame["reward/best"].tolist() == [0.0, 1.0, 1.0]  # the first two are a group
    assert frame["failure/hangs"][0].startswith("timeout: ")
    assert repr(scores) == "<Scores: 3 responses, mean reward 2, 1 with a failed call>"


def test_failures_are_results_and_it_works_inside_of_an_event_loop(
    sources: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async def cell() -> reasoner.Scores:
        return reasoner.score(ROWS[:1], ["exact", sources["fails"]])

    scores = asyncio.run(cell())
    assert scores.rewards == [None]
    exact, failed = scores.components[0]
    assert exact.value == 1.0
    assert failed.failure is not None
    assert failed.failure.message.startswith("ZeroDivisionError: division by zero (fails.py:")
    message = capsys.readouterr().out
    assert "looking at 5 km" in message
    assert "return 1 / 0" in message  # the end of its traceback


def test_a_runs_responses_and_a_frame_of_them_are_scored_alike(tmp_path: Path) -> None:
    run = reasoner.Run(made_up_run(tmp_path, steps=1, every=1, problems=2, size=4))
    everything = reasoner.score(run, ["math"])
    step = run.rollouts(1)
    again = reasoner.score(step, ["math"])
    assert len(everything) > len(again) == 8
    assert len(again.groups) == 2
    assert again.rewards == [reward for scored in everything.groups[-2:] for reward in scored.rewards]
    assert set(again.groups[0].group.problem.fields) == {"question", "answer"} | set(step["fields"][0])


@pytest.mark.parametrize(
    ("responses", "rewards", "message"),
    [
        (ROWS, ["mth"], r"rewards\[0\]\.source: there is no reward source 'mth'\. Did you mean 'math'\?"),
        (ROWS, [{"source": "math", "wieght": 1.0}], r"rewards\.math\.wieght = 1\.0 .*Did you mean 'weight'"),
        (ROWS, [{"source": "math", "options": {"extrct": 1}}], "no option 'extrct'. Did you mean 'extract'"),
        (ROWS, [{"weight": 1.0}], r"rewards\.0\.source is needed and not set"),
        (ROWS, "math", r"rewards takes a list: rewards=\["),
        (ROWS, [], "rewards is empty"),
        (ROWS, [lambda problem, response: 1.0], "Put @reward"),
        ([], ["math"], "no responses to score"),
        ([{"respnse": "5"}], ["math"], r"'response' must be text\. Did you mean 'respnse'\? It has: respnse\."),
        ([{"response": 5}], ["math"], "response 0: the column 'response' must be text, got int"),
        ([{"response": "5", "answer": ["5"]}], ["math"], "'answer' must be text or a number, got "),
        ([{"response": "5", "question": [{"role": "user"}]}], ["math"], "'question' must be text or a number, got "),
        ([{"response": "5", "fields": "5"}], ["math"], "'fields' must be a table, got '5'"),
        (
            [{"response": "5", "finish_reason": "eos"}],
            ["math"],
            "'finish_reason' must be one of stop, length, repetition, got 'eos'",
        ),
        *(
            ([{"response": "5", "tokens": tokens}], ["math"], "'tokens' must be a number above 0, got")
            for tokens in ("5", 0, -1, float("inf"))
        ),
        ([{"response": "5", "when": object()}], ["math"], "response 0: the column 'when' .* got object"),
        ([{"response": "5"}, {"response": "5", "far": float("inf")}], ["math"], "response 1: the column 'far'"),
        (["5"], ["math"], "response 0: must be a row"),
        ({"response": "5"}, ["math"], "responses takes a list of rows"),
        ("not-there", ["math"], "there is no run 'not-there', as a path or below"),
    ],
)
def test_what_cannot_be_scored_is_refused(responses: Any, rewards: Any, message: str) -> None:
    with pytest.raises((ConfigError, UserError), match=message):
        reasoner.score(responses, rewards)


def test_an_async_source_can_be_called_inside_of_an_event_loop() -> None:
    cells = Cells()
    cells.run("from reasoner import reward\n@reward('later')\nasync def later(problem, response):\n    return 0.5")

    async def cell() -> object:
        return cells.namespace["later"](None, None)

    assert asyncio.run(cell()) == 0.5


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_what_a_frame_has_for_a_missing_value_is_none(missing: Any) -> None:
    """And no answer "nan", with which verifiers would compare."""
    names = ("question", "answer", "fields", "finish_reason", "tokens", "problem", "sample")
    group, other = groups_of([{"response": "5 km", **dict.fromkeys(names, missing)}, {"response": "6", "answer": 6}])
    assert (group.problem.messages[0].content, group.problem.answer) == ("", "")
    assert (group.responses[0].finish_reason, len(group.responses[0].token_ids)) == ("stop", 2)
    assert other.problem.answer == "6"
    (counted,) = groups_of([{"response": "5", "tokens": 3.0, "finish_reason": "length"}])
    assert (counted.responses[0].finish_reason, len(counted.responses[0].token_ids)) == ("length", 3)
