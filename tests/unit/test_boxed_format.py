"""`boxed_format` rewards one short box at the end of a finished response, and nothing less."""

from __future__ import annotations

from typing import Literal

import pytest

from reasoner import Problem, Response, Score
from reasoner_rewards.boxed_format import MAX_BOX_CHARS, MAX_TAIL_CHARS, boxed_format

PROBLEM = Problem("p:1", (), "6")


def score(text: str, finish_reason: Literal["stop", "length"] = "stop") -> Score:
    result = boxed_format(PROBLEM, Response(text, (1,), (True,), (0.0,), finish_reason, 0))
    assert isinstance(result, Score)
    return result


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{6}",
        "3+3 is \\boxed{7}.",
        "$\\boxed{\\frac{1}{2}}$ apples",
        "\\boxed{<}",
        "\\boxed{\\emptyset}",
        "\\boxed{\\{\\}}",
        "\\boxed{[]}",
        "\\boxed{\\text{yes}}",
        "\\boxed{\\textdollar}",
        "\\boxed{是}",
        "<think>\\boxed{1} or \\boxed{2}" + "x" * 500 + "</think>\\boxed{6}",
        "\\boxed{" + "1" * MAX_BOX_CHARS + "}" + "." * MAX_TAIL_CHARS,
    ],
)
def test_one_box_at_the_end_of_a_finished_response(text: str) -> None:
    assert score(text) == Score(1.0, {"finished": True}, "")


@pytest.mark.parametrize("text", ["\\boxed{6}", "", "6"])
def test_an_unfinished_response_scores_nothing(text: str) -> None:
    result = score(text, "length")
    assert result.value == 0.0
    assert "not finished" in result.note


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "0 boxes"),
        ("The answer is 6.", "0 boxes"),
        ("\\boxed{6} \\boxed{6}", "2 boxes"),
        ("\\boxed{\\boxed{6}}", "2 boxes"),
        ("\\boxed{}", "empty"),
        ("\\boxed{  }", "empty"),
        ("\\boxed{\u200b}", "empty"),
        ("\\boxed{?}", "empty"),
        ("\\boxed{...}", "empty"),
        ("\\boxed{\\text{}}", "empty"),
        ("\\boxed{{}\\ \\quad\\,~$$}", "empty"),
        ("\\boxed{\\mathrm{\\text{ }}}", "empty"),
        ("\\boxed{\\hspace{1cm}\\phantom{6}}", "empty"),
        ("\\boxed{6", "closed"),
        ("\\boxed{" + "1" * (MAX_BOX_CHARS + 1) + "}", "longer"),
        ("\\boxed{6}" + "." * (MAX_TAIL_CHARS + 1), "follow"),
        ("<think>\\boxed{6}", "think"),
        ("<think>\\boxed{6}</think>", "0 boxes"),
        ("\\boxed{1}" * 200_000, "200000 boxes"),
    ],
)
def test_what_is_missing_is_said(text: str, note: str) -> None:
    result = score(text)
    assert result.value == 0.0
    assert note in result.note
