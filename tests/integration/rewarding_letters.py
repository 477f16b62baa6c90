"""A plugin with a reward that a random byte-level model can earn."""

from __future__ import annotations

from collections.abc import Iterable

from reasoner import Problem, Response, RewardSource, hookimpl, reward


@reward("letters", timeout_s=5.0)
def letters(problem: Problem, response: Response) -> float:
    """Share of ASCII letters in the response."""
    return sum(c.isascii() and c.isalpha() for c in response.text) / max(len(response.text), 1)


@reward("begins", timeout_s=5.0)
def begins(problem: Problem, response: Response) -> float:
    """1 where the response begins with a byte of ASCII: in some groups all do, or none."""
    return float(response.text[:1].isascii())


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`letters` and `begins`."""
    return (letters, begins)
