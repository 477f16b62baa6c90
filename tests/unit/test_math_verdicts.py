"""The reward source `math` on labelled cases, on adversarial answers, and on GSM8K where a path to it is given."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasoner import Problem, Response, Score
from reasoner_rewards.equality import compare
from reasoner_rewards.math import math
from reasoner_rewards.symbolic import TooComplexError, same_expression

CASES = Path(__file__).parent / "cases" / "math_cases.jsonl"
GSM8K = os.environ.get("REASONER_GSM8K", "")
"""JSON-lines files with an `answer` field, separated by colons"""

LATEX = (
    r"\ \frac \sqrt \sin \log \pi \infty \pm \cup \{ \} \le \% \text{or} 2^{99} x^{9} (x+y)^{12} \frac{1}{x+1} \circ "
    r"\begin{pmatrix} \end{pmatrix}"
)
TOKENS = st.sampled_from([*"19xyei()[]{}^_+-/*!=<,;|&$.'", *LATEX.split(" ")])
REFERENCES = st.sampled_from(
    ["5", "\\sqrt{2}", "x+1", "(1,2)", "x=5", "x<5", "yes", "\\frac{\\pi}{3}", "\\{1,2\\}", "[0,1)"]
)


def respond(text: str) -> Response:
    return Response(text, (1,), (True,), (0.0,), "stop", 0)


def verify(response: str, reference: str, **options: Any) -> Score:
    score = math(Problem("p:1", (), reference), respond(response), **options)
    assert isinstance(score, Score)
    return score


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def test_cases_hold_both_verdicts_of_many_kinds() -> None:
    labelled = cases()
    assert len(labelled) >= 400
    assert len({case["kind"] for case in labelled}) >= 20
    assert min(sum(case["score"] == score for case in labelled) for score in (0.0, 1.0)) >= 150


@pytest.mark.parametrize("kind", sorted({case["kind"] for case in cases()}))
def test_labelled_cases(kind: str) -> None:
    wrong = []
    for case in (case for case in cases() if case["kind"] == kind):
        score = verify(case["response"], case["reference"], extract=case.get("extract", "strict"))
        if score.value != case["score"]:
            wrong.append((case["response"], case["reference"], score))
    assert wrong == []


def test_score_keeps_what_was_compared_and_says_why_not() -> None:
    score = verify("so \\boxed{73}", "48+24 = 72\n#### 72")
    assert score == Score(
        0.0, {"extracted": "73", "method": "boxed", "reference": "72", "means": "number"}, "a different number"
    )
    assert verify("no idea", "72").parts["extracted"] is None
    assert verify("no idea", "72").note == "there is no \\boxed{} or #### in the response"
    assert json.loads(json.dumps(score.parts)) == score.parts


@pytest.mark.parametrize("reference", ["", "  ", "#### ", "\\boxed{}", "x" * 1000])
def test_a_reference_without_an_answer_is_a_failure(reference: str) -> None:
    with pytest.raises(ValueError, match=r"p:1"):
        verify("\\boxed{1}", reference)


@pytest.mark.parametrize(
    "expression",
    [
        "9^{9^{9^9}}", "9^{9^9}", "((9^{999})^{999})^{999}", "100000!", "9!!!!", "\\exp(\\exp(\\exp(9)))",
        "(x+y)^{999}", "9^{99999}", "(" * 9 + ")" * 9,
    ],
)  # fmt: skip
def test_explosive_expressions_are_refused_before_evaluation(expression: str) -> None:
    with pytest.raises(TooComplexError):
        same_expression(expression, "x")


def test_works_off_the_main_thread() -> None:
    """math-verify's own deadlines use SIGALRM, which raises off the main thread; ours must not."""
    scores: list[Score] = []
    thread = threading.Thread(target=lambda: scores.append(verify("\\boxed{\\sqrt{12}}", "2\\sqrt{3}")))
    thread.start()
    thread.join()
    assert [score.value for score in scores] == [1.0]


def test_units_of_mathverify_are_not_stripped_from_algebra() -> None:
    """math-verify reads `5m` as 5 metres, `x=x+1` as equal to `x=x+2`, `(6,5)` as the empty interval."""
    assert not compare("5m", "5").equal
    assert not compare("x = x+2", "x = x+1").equal
    assert not compare("(6,5)", "(7,3)").equal


@settings(deadline=None, max_examples=150)
@given(st.lists(TOKENS, max_size=25).map("".join), REFERENCES)
@example("\\infty 2^{99} 2^{99}", "\\frac{\\pi}{3}")
def test_random_latex_never_raises(answer: str, reference: str) -> None:
    verdict = compare(answer, reference)
    assert verdict.equal or verdict.reason


@settings(deadline=None)
@given(st.text(max_size=100), st.text(min_size=1, max_size=20))
def test_arbitrary_text_never_raises(response: str, reference: str) -> None:
    if reference.strip() and "####" not in reference:
        assert verify(response, reference).value in (0.0, 1.0)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_only_the_right_integer_scores(answer: int, reference: int) -> None:
    solution = f"Some steps: 3+4 = <<3+4=7>>7.\n#### {reference:,}"
    assert verify(f"It is \\boxed{{{answer}}}", solution).value == float(answer == reference)
    assert verify(solution, solution).value == 1.0


@pytest.mark.skipif(not GSM8K, reason="set REASONER_GSM8K to the JSON-lines files of GSM8K, separated by colons")
def test_every_reference_of_gsm8k_scores_as_its_own_response() -> None:
    lines = [line for path in GSM8K.split(":") for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    solutions = [json.loads(line)["answer"] for line in lines]
    assert solutions
    rejected = [text for text in solutions if verify(text, text).value != 1.0]
    plus_one = [
        (text, re.sub(r"(?<=#### )(.*)", lambda m: str(int(m[1].replace(",", "")) + 1), text)) for text in solutions
    ]
    accepted = [wrong for text, wrong in plus_one if verify(wrong, text).value != 0.0]
    assert (rejected, accepted) == ([], [])
