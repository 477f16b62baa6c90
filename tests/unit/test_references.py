"""How references are read is known before a run starts."""

from __future__ import annotations

import pytest

from reasoner import TEXT_ONLY, Message, Problem, reward
from reasoner.errors import UserError
from reasoner.references import read_references
from reasoner_rewards.boxed_format import boxed_format
from reasoner_rewards.math import math
from tests.scored import scored


def problems(*references: str) -> list[Problem]:
    return [Problem(f"p:{n}", (Message("user", "?"),), reference) for n, reference in enumerate(references)]


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("72", "number"),
        ("\\boxed 7", "number"),
        ("x = 5", "number"),
        ("3+4 = 7\n#### 7", "number"),
        ("5 apples", "number"),
        ("Tuesday", "words"),
        ("B", "words"),
        ("3:2", "ratio"),
        ("1, 2", "list"),
        ("(1, x+1)", "list"),
        ("x^2 + 1", "expression"),
        ("0 < x < 1", "expression"),
        ("\\sum_{k=1}^n k", TEXT_ONLY),
        ("x'", TEXT_ONLY),
        ("1, \\lim f", TEXT_ONLY),
    ],
)
def test_math_says_how_it_reads_a_reference(reference: str, kind: str) -> None:
    readings = read_references(math, problems(reference), {})
    assert readings is not None
    assert dict(readings.kinds) == {kind: 1}
    assert scored(math, "\\boxed{0}", reference).parts["reads"] == kind


def test_what_is_compared_as_text_only_and_what_is_broken_is_counted_and_named() -> None:
    readings = read_references(math, problems("72", "#### ", "f'", "73", "g'", "h'", "i'"), {})
    assert readings is not None
    assert (readings.text_only, [id_ for id_, _ in readings.broken]) == (("p:2", "p:4", "p:5", "p:6"), ["p:1"])
    assert str(readings) == "number 2, text only 4 (p:2, p:4, p:5 and 1 more), not to be compared with 1 (p:1)"


def test_a_budget_that_is_used_up_is_said() -> None:
    readings = read_references(math, problems("72", "73"), {}, budget_s=-1.0)
    assert readings is not None
    assert str(readings).endswith("(the first 0 of 2)")


def test_a_source_that_does_not_say_is_not_asked() -> None:
    assert read_references(boxed_format, problems("72"), {}) is None


def test_an_error_of_the_source_itself_is_not_taken_for_a_broken_reference() -> None:
    def reads(problem: Problem, options: object) -> tuple[str, str]:
        raise RuntimeError("a bug")

    @reward("odd", reads=reads)
    def odd(problem: object, response: object) -> float:
        return 0.0

    with pytest.raises(UserError, match="'odd': reading the reference of problem p:0 failed: RuntimeError: a bug"):
        read_references(odd, problems("72"), {})
