"""The generators `calculations` and `numbers_to_guess`."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from reasoner.errors import ConfigError, DataError
from reasoner_environments.calculator import calculator
from reasoner_tasks.calculations import calculations, numbers_to_guess


def test_answers_are_what_the_calculator_says_and_problems_differ() -> None:
    rows = list(calculations(300, 1, terms=[2, 3, 4], digits=[1, 9]))
    assert len({row["expression"] for row in rows}) == 300
    for row in rows:
        assert row["answer"] == calculator(row["expression"])
        assert row["expression"] in row["question"]
    assert {len(row["expression"].split()) for row in rows} == {3, 5, 7}
    assert {sign for row in rows for sign in row["expression"].split()[1::2]} == {"+", "-", "*"}


def test_a_seed_gives_the_same_problems_and_another_one_others() -> None:
    assert list(calculations(20, 3)) == list(calculations(20, 3))
    one, other = ({row["expression"] for row in calculations(50, seed)} for seed in (1, 2))
    assert not one & other
    digits = [len(number) for row in calculations(200, 1) for number in row["expression"].split()[::2]]
    assert (min(digits), max(digits)) == (5, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"terms": [1]}, "options.terms of calculations must be a list"),
        ({"terms": []}, "options.terms"),
        ({"terms": 2}, "options.terms"),
        ({"digits": [5]}, "options.digits of calculations must be the least and the most"),
        ({"digits": [8, 5]}, "options.digits"),
        ({"digits": [0, 5]}, "options.digits"),
        ({"operations": ["/"]}, r"options.operations of calculations must be a list of some of \+, -, \*"),
        ({"operations": "+"}, "options.operations"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        next(calculations(1, 1, **options))


def test_there_may_be_too_few() -> None:
    with pytest.raises(DataError, match="only 81 different problems"):
        list(calculations(82, 1, digits=[1, 1], operations=["+"]))


def test_games_are_different_and_hold_their_number() -> None:
    rows = list(numbers_to_guess(300, 1, size=20))
    assert len({(row["low"], row["answer"]) for row in rows}) == 300
    for row in rows:
        assert row["low"] <= int(row["answer"]) <= row["high"] == row["low"] + 19
        assert row["question"] == f"I am thinking of a whole number from {row['low']} to {row['high']}. Guess it."
    assert list(islice(numbers_to_guess(10**9, 2), 3)) == list(numbers_to_guess(3, 2))
    for size in (1, True, "9"):
        with pytest.raises(ConfigError, match=r"options\.size"):
            next(numbers_to_guess(1, 1, size=size))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"only (1\d{3}|2000) different games"):
        list(numbers_to_guess(2001, 1, size=2))
