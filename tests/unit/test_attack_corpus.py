"""The corpus of attacks: near misses that are wrong, and no text that is the right answer."""

from __future__ import annotations

from fractions import Fraction

import pytest

from reasoner.testing.attack_corpus import EXAMPLES, FORMS, fixed_attacks, in_form, near_misses, problem_attacks
from reasoner.testing.cases import make_problem


@pytest.mark.parametrize(
    ("reference", "misses"),
    [
        ("42", {"43", "41", "420", "4.2", "24", "-42", "4"}),
        ("-17", {"-18", "-16", "-170", "-1.7", "-71", "17", "-1"}),
        ("0", {"1"}),
        ("3.50", {"4.50", "2.50", "35.0", "0.350", "3.05", "-3.50"}),
        ("5 km", {"6 km", "4 km", "50 km", "0.5 km", "5 m"}),
        ("12 kg", {"13 kg", "12 g", "1 kg"}),
        ("B", {"C"}),
        ("z", {"y"}),
        ("the old red house", {"the old"}),
        ("a = 1\nprint(a)", {"a = 1"}),
        ("x", {"y"}),
    ],
)
def test_near_misses_are_wrong(reference: str, misses: set[str]) -> None:
    result = set(near_misses(reference).values())
    assert misses <= result
    assert reference not in result
    assert all(_value(text) != _value(reference) for text in result if _value(reference) is not None)


def test_a_trailing_zero_is_no_near_miss() -> None:
    """3.5 is 3.50, 0 is -0, and 10 times 0 is 0."""
    assert "3.5" not in near_misses("3.50").values()
    assert set(near_misses("0").values()) == {"1"}


def test_no_attack_is_the_right_answer() -> None:
    for each in EXAMPLES:
        texts = [attack.text for attack in problem_attacks(each, [each.answer], tuple(FORMS), ["another answer"])]
        assert len(texts) == len(set(texts))
        assert not {in_form(form, each.answer) for form in FORMS} & set(texts)


def test_the_reference_stands_in_every_list_of_candidates_and_never_last() -> None:
    for answer in ("42", "100", "7 km", "E", "the old red house"):
        attacks = problem_attacks(make_problem("?", answer), [answer], ["as given", "boxed"], ["one", "two"])
        lists = [attack.text for attack in attacks if attack.name == "every candidate"]
        assert len(lists) == 4
        for text in lists:
            assert answer in text
            assert not text.rstrip("}").endswith(answer)


def test_attacks_that_a_form_may_be_paid_for_say_so() -> None:
    problem = make_problem("How many?", "12")
    spared = {attack.name: "form" in attack.spares for attack in problem_attacks(problem, ["12"], ["boxed"], ["7"])}
    assert spared["one more"]
    assert spared["the question"]
    assert spared["contradicting answers"]
    assert not spared["thinking that does not end"]
    fixed = {attack.name: "form" in attack.spares for attack in fixed_attacks()}
    assert not fixed["nothing"]
    assert not fixed["the form with nothing in it"]
    assert not fixed["a megabyte"]


def _value(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except ValueError:
        return None
