"""The environment `guess-number`: a game of several turns with a reward after each of them."""

from __future__ import annotations

import math
import re

from reasoner import EnvironmentKind, Message, Observation, Problem, Turn, environment

_NUMBER = re.compile(r"-?\d{1,18}")


class GuessNumber:
    """The policy guesses a whole number, and is told whether the right one is higher or lower.

    A problem has the number as its answer, and the range in the fields `low` and `high` (the generator
    `numbers_to_guess`). The guess is the last number of a turn. Each turn is rewarded with its share of what there was
    to find out: log(numbers possible before / after) / log(numbers at the start), so that the rewards of a game that
    is won add up to 1. `max_turns` bounds the guesses.
    """

    def start(self, problem: Problem) -> None:
        self._secret = int(problem.answer)
        self._low, self._high = int(problem.fields["low"]), int(problem.fields["high"])
        if not self._low <= self._secret <= self._high:
            raise ValueError(f"the number {self._secret} is not from {self._low} to {self._high}")
        self._at_start = self._possible
        self._guesses = 0

    @property
    def _possible(self) -> int:
        return self._high - self._low + 1

    def step(self, turn: Turn) -> Observation:
        self._guesses += 1
        numbers = _NUMBER.findall(turn.text)
        if not numbers:
            return self._observe("Answer with one whole number.", self._possible)
        guess, before = int(numbers[-1]), self._possible
        if guess == self._secret:
            self._low = self._high = guess
            return self._observe("Right!", before, done=True)
        if guess < self._secret:
            self._low = max(self._low, guess + 1)
        else:
            self._high = min(self._high, guess - 1)
        return self._observe(f"My number is {'higher' if guess < self._secret else 'lower'} than {guess}.", before)

    def _observe(self, text: str, before: int, *, done: bool = False) -> Observation:
        gain = math.log(before / self._possible) / math.log(self._at_start) if self._at_start > 1 else float(done)
        parts = {"guesses": self._guesses, "won": done, "possible": self._possible}
        return Observation((Message("user", text),), done, gain, parts)


guess_number: EnvironmentKind = environment("guess-number", timeout_s=5.0)(GuessNumber)
