"""The game `guess-number`: its rewards add up to 1 where it is won, and are paid for what a guess finds out."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from reasoner import Message, Turn
from reasoner.testing.cases import make_problem
from reasoner_environments.guess_number import guess_number


def played(secret: int, *texts: str, low: int = 1, high: int = 100) -> list[Any]:
    game = guess_number()
    assert game.start(make_problem("Guess.", str(secret), low=low, high=high)) is None
    return [game.step(Turn("assistant", 0, 1, text)) for text in texts]


def test_what_is_said_of_a_guess() -> None:
    seen = played(37, "50", "I think it is 25, not 26... 25", "no idea", "0", "37.")
    assert [each.messages for each in seen] == [
        (Message("user", "My number is lower than 50."),),
        (Message("user", "My number is higher than 25."),),
        (Message("user", "Answer with one whole number."),),
        (Message("user", "My number is higher than 0."),),
        (Message("user", "Right!"),),
    ]
    assert [each.done for each in seen] == [False, False, False, False, True]
    assert seen[-1].parts == {"guesses": 5, "won": True, "possible": 1}
    assert [round(each.reward, 3) for each in seen] == [0.155, 0.155, 0.0, 0.0, 0.69]
    assert seen[0].reward == pytest.approx(math.log(100 / 49) / math.log(100))


def test_the_rewards_of_a_game_that_is_won_add_up_to_one() -> None:
    draw = random.Random(1)
    for _ in range(50):
        low = draw.randint(-50, 50)
        high = low + draw.randint(0, 200)
        secret = draw.randint(low, high)
        guesses = [str(draw.randint(low - 5, high + 5)) for _ in range(5)]
        guesses = [guess for guess in guesses if int(guess) != secret]
        seen = played(secret, *guesses, str(secret), low=low, high=high)
        assert sum(each.reward for each in seen) == pytest.approx(1.0)
        assert all(each.reward >= 0 for each in seen)
        lost = played(secret, *guesses, low=low, high=high)
        assert sum(each.reward for each in lost) <= 1.0 + 1e-9
        assert not any(each.done for each in lost)


def test_halving_earns_more_than_counting_up() -> None:
    halved, counted = played(90, "50"), played(90, "1")
    assert halved[0].reward > counted[0].reward


def test_a_problem_without_a_range_is_refused() -> None:
    with pytest.raises(KeyError):
        guess_number().start(make_problem("Guess.", "3"))
    with pytest.raises(ValueError, match="the number 3 is not from 5 to 9"):
        guess_number().start(make_problem("Guess.", "3", low=5, high=9))
