"""A plugin: an environment that wants something said in three turns, and fails where the problem says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reasoner import EnvironmentKind, Message, Observation, Problem, Turn, environment, hookimpl


@environment("walk")
class Walk:
    """Three turns, each paid by its length."""

    def __init__(self, *, turns: int = 3) -> None:
        self.left = turns

    def start(self, problem: Problem) -> Sequence[Message]:
        if problem.answer == "lost":
            raise ValueError("there is no such place")
        return (Message("user", "You may walk."),)

    def step(self, turn: Turn) -> Observation:
        self.left -= 1
        reward = (len(turn.text) % 3) / 2
        return Observation((Message("user", f"{self.left} left"),), done=self.left == 0, reward=reward)


@hookimpl
def register_environments() -> Iterable[EnvironmentKind]:
    """`walk`."""
    return (Walk,)  # type: ignore[return-value]
