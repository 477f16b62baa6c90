"""Tools and environment of one response: what its turns are answered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from reasoner.config import EnvironmentConfig
from reasoner.environments.base import EnvironmentFailedError
from reasoner.environments.choose import ConfiguredEnvironment, ConfiguredTool
from reasoner.environments.host_client import HostClient
from reasoner.environments.workers.protocol import SHARED, CallOutcome, CallRequest, Operation
from reasoner.errors import EnvironmentsError
from reasoner.records import Failure, Message, Observation, Problem, ToolCall, Turn

DEADLY = ("timeout", "crash")
"""failures that end the worker"""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions have in common."""

    config: EnvironmentConfig
    chosen: ConfiguredEnvironment
    client: HostClient
    note: Callable[[str, str, CallOutcome], None]
    """takes what was called, the response, and the outcome"""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a call is answered with."""

    text: str
    error: str = ""
    """why the tool has no result"""
    seconds: float = 0.0


@dataclass(slots=True)
class ResponseSession:
    """See `EnvironmentSession`.

    Args:
        key: names the response in messages.
        end: called once at the end.
    """

    context: SessionContext
    key: str
    end: Callable[[], None]
    opening: tuple[Message, ...] = ()
    _seat: int = SHARED
    """of the environment; `SHARED`: there is none, or it is dead"""
    _tool_seats: dict[str, int] = field(default_factory=dict)
    _turns: int = 0
    _calls: int = 0
    _closed: bool = False

    async def begin(self, problem: Problem) -> None:
        """Let the environment start.

        Raises:
            EnvironmentFailedError: it failed.
        """
        if self.context.chosen.kind is not None:
            self._seat = self.context.client.new_seat()
            self.opening = (await self._ask("start", problem=problem)).messages

    async def step(self, turn: Turn) -> Observation:
        answers = [await self._answer(call) for call in turn.calls]
        self._turns += 1
        kind = self.context.chosen.kind
        asks = kind is not None and kind.steps
        observation = (await self._ask("step", turn=turn)).observation if asks else None
        own = Observation(done=not turn.calls) if observation is None else observation
        done = own.done or self._turns >= self.context.config.max_turns
        if not done and not answers and not own.messages:
            message = (
                "step gave no message and did not end the response, so there is nothing that the policy could answer"
            )
            raise self._fail(CallOutcome(0, 0.0, kind="invalid", message=message))
        tools = (Message("tool", answer.text, call.name) for call, answer in zip(turn.calls, answers, strict=True))
        return Observation(
            (*tools, *own.messages),
            done,
            own.reward,
            own.parts,
            (*(answer.error for answer in answers), *("" for _ in own.messages)),
            (*(answer.seconds for answer in answers), *(0.0 for _ in own.messages)),
        )

    async def close(self) -> Mapping[str, Any]:
        if self._closed:
            return {}
        self._closed = True
        parts: Mapping[str, Any] = {}
        try:
            with suppress(EnvironmentsError):  # the host is gone, and with it all that would be closed
                parts = await self._close_all()
        finally:
            for seat in (self._seat, *self._tool_seats.values()):
                if seat != SHARED:
                    self.context.client.leave(seat)
            self.end()
        return parts

    async def _close_all(self) -> Mapping[str, Any]:
        for name, seat in self._tool_seats.items():
            configured = self.context.chosen.tools[name]
            if hasattr(configured.tool.function, "close"):
                await self._call(name, seat, configured.timeout_s, CallRequest("close", tool=name))
        kind = self.context.chosen.kind
        if kind is None or self._seat == SHARED or not hasattr(kind.made_by, "close"):
            return {}
        outcome = await self._call(kind.name, self._seat, self.context.chosen.timeout_s, CallRequest("close"))
        return {"close_failed": f"{outcome.kind}: {outcome.message}"} if outcome.kind is not None else outcome.parts

    async def _answer(self, call: ToolCall) -> _Answer:
        """The result of a call, or why there is none."""
        if call.error:
            return _Answer(f"Error: {call.error}")
        self._calls += 1
        if self._calls > (most := self.context.config.max_tool_calls):
            error = f"not called: a response may make {most} calls. Answer without further calls."
            return _Answer(f"Error: {error}", error)
        configured = self.context.chosen.tools[call.name]
        outcome = await self._call(
            call.name,
            self._seat_of(configured),
            configured.timeout_s,
            CallRequest("tool", tool=call.name, arguments=call.arguments),
        )
        if outcome.kind is None:
            return _Answer(outcome.text, seconds=outcome.seconds)
        if outcome.kind in DEADLY or outcome.last:
            self._bury(configured, outcome)
        return _Answer(f"Error: {outcome.message}", outcome.message, outcome.seconds)

    def _seat_of(self, configured: ConfiguredTool) -> int:
        if configured.tool.is_method:
            return self._seat
        if not configured.keeps_state:
            return SHARED
        return self._tool_seats.setdefault(configured.tool.name, self.context.client.new_seat())

    def _bury(self, configured: ConfiguredTool, outcome: CallOutcome) -> None:
        """The worker is gone: what a tool has kept is lost, and it begins anew; an environment cannot go on.

        Raises:
            EnvironmentFailedError: it was the environment's.
        """
        if configured.tool.is_method:
            raise self._fail(outcome)
        if seat := self._tool_seats.pop(configured.tool.name, SHARED):
            self.context.client.leave(seat)

    async def _ask(
        self, operation: Operation, *, problem: Problem | None = None, turn: Turn | None = None
    ) -> CallOutcome:
        """Call the environment.

        Raises:
            EnvironmentFailedError: it failed.
        """
        kind = self.context.chosen.kind
        assert kind is not None
        request = CallRequest(operation, problem=problem, turn=turn)
        outcome = await self._call(kind.name, self._seat, self.context.chosen.timeout_s, request)
        if outcome.kind is not None:
            raise self._fail(outcome)
        return outcome

    async def _call(self, name: str, seat: int, timeout_s: float, request: CallRequest) -> CallOutcome:
        what = f"{name} ({request.operation}), {self.key},"
        outcome = await self.context.client.call(what, seat, timeout_s, request)
        self.context.note(name, what, outcome)
        return outcome

    def _fail(self, outcome: CallOutcome) -> EnvironmentFailedError:
        """The environment cannot go on; its worker is not needed any more."""
        kind = self.context.chosen.kind
        assert kind is not None
        assert outcome.kind is not None
        if self._seat != SHARED:
            self.context.client.leave(self._seat)
            self._seat = SHARED
        return EnvironmentFailedError(Failure(kind.name, outcome.kind, outcome.message, outcome.seconds))
