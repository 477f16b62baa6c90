"""How references are read is known before a run starts."""

from __future__ import annotations

import pytest

from reasoner import TEXT_ONLY, Message, Problem, reward
from reasoner.config import RewardConfig
from reasoner.errors import UserError
from reasoner.planning.references import describe_references, read_references
from reasoner_rewards.boxed_format import boxed_format
from reasoner_rewards.choice import choice
from reasoner_rewards.exact import exact
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
    assert str(readings) == "2 as number, 4 as text only (p:2, p:4, p:5 and 1 more), 1 not to be compared with (p:1)"


def test_a_source_that_could_compare_with_hardly_any_reference_ends_the_command() -> None:
    def described(*references: str, most: float = 0.5, source: str = "choice") -> dict[str, str]:
        rewards = [RewardConfig(source="boxed_format"), RewardConfig(source=source)]
        sources = {each.name: each for each in (boxed_format, choice, exact, math)}
        return describe_references(rewards, sources, problems(*references), most)

    with pytest.raises(UserError) as caught:
        described("2", "0", "B", "1")
    for part in ("'choice' cannot compare with the reference answers of 3 of 4 problems", "p:0", "got '2'"):
        assert part in str(caught.value)
    assert "columns.answer = \"{{ 'ABCDE'[answer|int] }}\"" in str(caught.value)
    assert described("2", "B", "C", "D") == {"references of choice": "3 as letter, 1 not to be compared with (p:0)"}
    assert described("2", "0", "B", "1", most=0.75) == {
        "references of choice": "1 as letter, 3 not to be compared with (p:0, p:1, p:3)"
    }
    assert described("Paris", source="exact") == {"references of exact": "1 as text"}
    assert described() == {}


def test_a_source_says_what_it_compares_with() -> None:
    (problem,) = problems("The answer is 8.\n#### 8")
    assert math.reads is not None
    assert math.reads(problem, math.options()) == ("number", "8")
    (letter,) = problems("(c) Paris")
    assert choice.reads is not None
    assert choice.reads(letter, choice.options(letters="abcd")) == ("letter", "c")
    (text,) = problems("  Hello,  World! ")
    assert exact.reads is not None
    assert exact.reads(text, exact.options()) == ("text", "hello world")


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
