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


def test_games_hold_their_number() -> None:
    rows = list(numbers_to_guess(200, 1, high=20))
    assert {int(row["answer"]) for row in rows} == set(range(1, 21))
    assert rows[0]["question"] == "I am thinking of a whole number from 1 to 20. Guess it."
    assert list(islice(numbers_to_guess(10**9, 2), 3)) == list(numbers_to_guess(3, 2))
    for high in (1, True, "9"):
        with pytest.raises(ConfigError, match=r"options\.high"):
            next(numbers_to_guess(1, 1, high=high))  # type: ignore[arg-type]
