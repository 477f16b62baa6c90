"""Tools and environments without processes: functions of the test answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoner.environments.base import EnvironmentFailedError
from reasoner.records import Message, Observation, Problem, ToolCall, ToolDescription, Turn

ADD = ToolDescription(
    "add",
    "Add two whole numbers.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
)


@dataclass
class FakeSession:
    owner: FakeEnvironments
    problem: Problem
    key: str
    opening: tuple[Message, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    closed: int = 0

    async def step(self, turn: Turn) -> Observation:
        self.turns.append(turn)
        answers = [call.error or self.owner.answer(call) for call in turn.calls]
        messages = tuple(Message("tool", text, call.name) for call, text in zip(turn.calls, answers, strict=True))
        seen = Observation(
            messages,
            done=not turn.calls or len(self.turns) == self.owner.max_turns,
            errors=("",) * len(messages),
            seconds=(0.0,) * len(messages),
        )
        return seen if self.owner.react is None else self.owner.react(self, turn, seen)

    async def close(self) -> Mapping[str, Any]:
        self.closed += 1
        return {"turns": len(self.turns)} if self.closed == 1 else {}


@dataclass
class FakeEnvironments:
    """`add` and nothing else; `react` changes what a session says of a turn, and may raise."""

    react: Callable[[FakeSession, Turn, Observation], Observation] | None = None
    tools: Sequence[ToolDescription] = (ADD,)
    opening: tuple[Message, ...] = ()
    max_turns: int = 8
    most_sessions: int = 128
    failure: EnvironmentFailedError | None = None
    """raised by `start`"""
    sessions: list[FakeSession] = field(default_factory=list)
    closed: bool = False

    def answer(self, call: ToolCall) -> str:
        return json.dumps(call.arguments["a"] + call.arguments["b"])

    def check_calls(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        names = {tool.name for tool in self.tools}
        return tuple(
            call if call.error or call.name in names else replace(call, error=f"there is no tool {call.name!r}")
            for call in calls
        )

    async def start(self, problem: Problem, key: str) -> FakeSession:
        if self.failure is not None:
            raise self.failure
        session = FakeSession(self, problem, key, self.opening)
        self.sessions.append(session)
        return session

    def close(self) -> None:
        self.closed = True
