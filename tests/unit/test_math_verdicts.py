"""The reward source `math` on labelled cases, on adversarial answers, and on GSM8K where a path to it is given."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasoner import Problem, Response, Score
from reasoner.errors import ConfigError
from reasoner_rewards.bounds import TooComplexError
from reasoner_rewards.equality import EqualityVerdict, compare
from reasoner_rewards.math import math
from reasoner_rewards.numbers import is_endless
from reasoner_rewards.symbolic import same_expression

CASES = Path(__file__).parent / "cases" / "math_cases.jsonl"
GSM8K = os.environ.get("REASONER_GSM8K", "")
"""JSON-lines files with an `answer` field, separated by colons"""

KINDS = frozenset({
    "integer", "decimal", "fraction", "thousands", "currency", "percent", "unit", "mixed", "scientific", "latex",
    "root", "power", "interval", "set", "tuple", "matrix", "equation", "inequality", "text", "choice", "list",
    "negative", "unicode", "final", "think", "lenient",
})  # fmt: skip
"""what a verifier for mathematics must tell apart: each with cases of both verdicts"""

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


def test_cases_hold_both_verdicts_of_every_kind() -> None:
    counts = Counter((case["kind"], case["score"]) for case in cases())
    assert counts.total() >= 800
    kinds = {kind for kind, _ in counts}
    assert kinds >= KINDS
    one_sided = {"arithmetic", "bounds", "several"}  # what must never be right
    few = {kind: counts[kind, score] for kind in KINDS for score in (0.0, 1.0) if counts[kind, score] < 5}
    assert few == {}
    assert {kind for kind in kinds if not counts[kind, 1.0]} == one_sided


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
        0.0,
        {"extracted": "73", "method": "boxed", "reference": "72", "reads": "number", "means": "number"},
        "a different number",
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


@pytest.mark.parametrize(
    ("answer", "reference", "tolerance", "equal"),
    [
        ("3.14", "3.14159", 0.001, True),
        ("3.1", "3.14159", 0.001, False),
        ("99", "100", 0.01, True),
        ("101.1", "100", 0.01, False),
        ("-99", "100", 0.01, False),
        ("3.46", "2\\sqrt{3}", 0.01, True),
        ("2\\sqrt{3}", "3.46", 0.01, True),
        ("3.4", "2\\sqrt{3}", 0.01, False),
        ("(1.001, 2)", "(1, 2)", 0.01, True),
        ("(1.1, 2)", "(1, 2)", 0.01, False),
        ("19.9\\%", "0.2", 0.01, True),
        ("0.001", "0", 0.5, False),
        ("x + 0.01", "x", 0.5, False),
        ("99 or 100", "100", 0.01, False),
    ],
)
def test_a_tolerance_is_relative_to_the_reference(answer: str, reference: str, tolerance: float, equal: bool) -> None:
    assert verify(f"\\boxed{{{answer}}}", reference, tolerance=tolerance).value == float(equal)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="'tolerance'"):
        math.check_options({"tolerance": tolerance})


def spellings(value: Fraction) -> list[str]:
    """Ways to write a number."""
    top, bottom, sign = value.numerator, value.denominator, "-" if value < 0 else ""
    result = [f"\\frac{{{top}}}{{{bottom}}}", f"{sign}\\frac{{{abs(top) * 2}}}{{{bottom * 2}}}", f"x = {top}/{bottom}"]
    whole, rest = divmod(abs(value), 1)
    if whole and rest:
        result.append(f"{sign}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}")
    if not is_endless(value):
        decimal = format(Decimal(top) / Decimal(bottom), "f")
        result += [decimal, f"{decimal}e0", f"{decimal}\\times 10^{{0}}", f"({decimal})", f"${decimal}$"]
    if bottom == 1:
        result += [f"{top:,}", f"{top} apples", f"{top}^{{1}}", f"{sign}\\sqrt{{{top * top}}}"]
    return result


NUMBERS = st.fractions(-2000, 2000, max_denominator=12) | st.integers(-(10**6), 10**6).map(Fraction)
CHANGES = st.sampled_from(
    [Fraction(1), Fraction(-1), Fraction(10), Fraction(1, 10), Fraction(1000), Fraction(1001, 1000), Fraction(2)]
)


@settings(deadline=None)
@given(NUMBERS, CHANGES, st.randoms(use_true_random=False))
def test_different_values_are_never_equal_however_they_are_written(
    value: Fraction, change: Fraction, rng: random.Random
) -> None:
    answer, reference = rng.choice(spellings(value * change)), rng.choice(spellings(value))
    assert compare(answer, reference).equal == (value * change == value)


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


@pytest.mark.parametrize(
    ("reference", "wrong", "right"),
    [
        ("ice is frozen water", "water frozen is ice", "Ice is frozen water."),
        ("the old house", "house old the", "The old house"),
        ("an old oak tree", "tree oak old an", "an old oak tree."),
    ],
)
def test_words_are_no_product_of_letters(reference: str, wrong: str, right: str) -> None:
    """As a product of variables, the words of an answer could stand in any order, and their letters too."""
    assert compare(wrong, reference) == EqualityVerdict(False, "text", "different words")
    assert compare(right, reference).equal


@pytest.mark.parametrize(("reference", "other"), [("abc", "cab"), ("mgh", "ghm"), ("x + abc", "bca + x")])
def test_letters_alone_are_variables(reference: str, other: str) -> None:
    assert compare(other, reference).equal
