"""What the pipeline asks of tools and environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reasoner.errors import ReasonerError
from reasoner.records import Failure, Message, Observation, Problem, ToolCall, ToolDescription, Turn


class EnvironmentFailedError(ReasonerError):
    """The environment of one response cannot go on: the failure is stored with the response, which abstains."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.source}: {failure.kind}: {failure.message}")
        self.failure = failure


class EnvironmentSession(Protocol):
    """Tools and environment of one response, from its first turn to its last."""

    opening: tuple[Message, ...]
    """What the environment adds to the prompt before anything is sampled."""

    async def step(self, turn: Turn) -> Observation:
        """Answer a turn of the policy, whose calls went through `Environments.check_calls`.

        There is one `tool` message per call, also for one with an error. What a tool does raises nothing: a tool that
        hangs or crashes has its error in `Observation.errors`, and the message says it to the policy. `done` is set
        where the environment says so, where a turn without a call ends the response, and at `max_turns`.

        Raises:
            EnvironmentFailedError: the environment itself failed.
        """
        ...

    async def close(self) -> Mapping[str, Any]:
        """End what the session started, and return the last parts to be saved with the response (JSON values). Raises
        nothing, and may be called twice: the second time it returns nothing."""
        ...


class Environments(Protocol):
    """The tools and the environment of a task. One event loop at a time uses it; many sessions run at once."""

    @property
    def tools(self) -> Sequence[ToolDescription]:
        """The tools that the policy may call, those of the environment first."""
        ...

    @property
    def most_sessions(self) -> int:
        """Sessions that may be open at a time; `start` waits for one to be closed where there are more."""
        ...

    def check_calls(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """The calls, each with an `error` in words for the policy where it names no tool or its arguments do not
        fit."""
        ...

    async def start(self, problem: Problem, key: str) -> EnvironmentSession:
        """Begin a response; it waits while as many sessions as may be are open.

        Args:
            problem: what is asked.
            key: names the response in messages (`problem gsm8k:17, response 3`).

        Raises:
            EnvironmentFailedError: the environment failed at its start.
        """
        ...

    def close(self) -> None:
        """End all sessions, their workers and everything that those started; safe to call twice."""
        ...
