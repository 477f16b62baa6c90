"""What a worker of the environment host does: calls of tools, or the whole life of one environment.

A worker that keeps no state makes one call after the other, for any response: each has an instance and a context of its
own, and the worker is replaced when a call has left something behind in it. A worker of a seat has one environment or
one tool, whose calls may change the process as they like: it ends with the seat.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import socket
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from reasoner.config import EnvironmentConfig
from reasoner.environments.choose import ConfiguredEnvironment
from reasoner.environments.returned import InvalidReturnError, observation_of, opening_of, parts_of, text_of
from reasoner.environments.workers.protocol import CallOutcome, CallRequest, dump_outcome, load_request
from reasoner.errors import ToolError
from reasoner.plugins import environment_api, tool_api
from reasoner.records import FailureKind
from reasoner.workers.calls import MAX_MESSAGE, copied, described, flush, last_lines, open_channel, prepare_call
from reasoner.workers.confinement import Leftovers
from reasoner.workers.lines import MAX_LINE_BYTES

_OURS = (__file__, tool_api.__file__, environment_api.__file__, asyncio.__file__, asyncio.runners.__file__)
"""between the worker and the call: nothing of it is in a traceback"""


def serve(channel: socket.socket, chosen: ConfiguredEnvironment, config: EnvironmentConfig, *, keeps: bool) -> None:
    """Answer calls until the channel is closed, or a call has left something behind."""
    own = os.getpid()
    leftovers = Leftovers.of_now(open_channel(channel))
    actor = _Actor(chosen, config.max_result_chars, keeps)
    with channel.makefile("rb") as lines:
        for line in lines:
            call, payload = line.split(b" ", 1)
            request = load_request(payload)
            # Without state, a context of its own: what a call sets in context variables ends with it.
            answer = partial(actor.outcome, int(call), request, config.memory_mb)
            outcome = answer() if keeps else contextvars.copy_context().run(answer)
            if os.getpid() != own:
                os._exit(0)  # a child that the call forked came back from it: it must not answer too
            if not keeps and not outcome.last:
                left = leftovers.look()
                outcome = replace(outcome, left=left, last=bool(left))
            channel.sendall(_encode_bounded(outcome))
            if outcome.last:
                return


class _Actor:
    """Makes the calls. `keeps`: it has one environment, or one tool, for all of them."""

    def __init__(self, chosen: ConfiguredEnvironment, most: int, keeps: bool) -> None:
        self._chosen, self._most, self._keeps = chosen, most, keeps
        self._environment: Any = None
        self._instances: dict[str, Any] = {}
        self._runner: asyncio.Runner | None = None

    def outcome(self, call: int, request: CallRequest, memory_mb: int) -> CallOutcome:
        """What became of a call; nothing that it does raises."""
        prepare_call()
        start = time.perf_counter()
        outcome = CallOutcome(call, 0.0)
        kind: FailureKind | None = None
        message, trace, full = "", "", False
        try:
            outcome = self._make(outcome, request)
        except InvalidReturnError as error:
            kind, message = "invalid", str(error)
        except ToolError as error:
            kind, message = "error", str(error)[:MAX_MESSAGE]
        except MemoryError as error:
            # The frames hold what filled the memory; let it go before anything else is allocated.
            traceback.clear_frames(error.__traceback__)
            kind, full = "error", True
            message = f"MemoryError: the call needed more than environment.memory_mb = {memory_mb} MB"
        except BaseException as error:  # sys.exit and KeyboardInterrupt too: whatever a call raises is its failure
            kind, message, trace = "error", described(error), last_lines(error, _OURS)
        flush()
        seconds = time.perf_counter() - start
        return replace(outcome, seconds=seconds, kind=kind, message=message, trace=trace, last=full)

    def _make(self, outcome: CallOutcome, request: CallRequest) -> CallOutcome:
        match request.operation:
            case "start":
                kind = self._chosen.kind
                assert kind is not None
                self._environment = kind(**copied(dict(self._chosen.options)))
                returned = self._await_result(self._environment.start(request.problem))
                return replace(outcome, messages=opening_of(returned, self._most))
            case "step":
                returned = self._await_result(self._environment.step(request.turn))
                return replace(outcome, observation=observation_of(returned, self._most))
            case "close":
                closing = getattr(self._instances.get(request.tool, self._environment), "close", None)
                return replace(outcome, parts=parts_of(None if closing is None else self._await_result(closing())))
            case "tool":
                return replace(outcome, text=text_of(self._call_tool(request.tool, request.arguments), self._most))

    def _call_tool(self, name: str, arguments: Mapping[str, Any]) -> Any:
        configured = self._chosen.tools[name]
        tool, values = configured.tool, configured.tool.values(arguments)
        if tool.is_method:
            return self._await_result(tool.function(self._environment, **values))
        if not self._keeps:
            instance = tool.opened(copied(dict(configured.options)))
            try:
                return self._await_result(instance(**values))
            finally:
                if tool.is_class and hasattr(instance, "close"):
                    self._await_result(instance.close())
        if name not in self._instances:
            self._instances[name] = tool.opened(copied(dict(configured.options)))
        return self._await_result(self._instances[name](**values))

    def _await_result(self, returned: Any) -> Any:
        """The result, also of an async function. What keeps state keeps its event loop."""
        if not inspect.isawaitable(returned):
            return returned
        if not self._keeps:
            return asyncio.run(_run_awaitable(returned))
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_run_awaitable(returned))


async def _run_awaitable(awaitable: Any) -> Any:
    return await awaitable


def _encode_bounded(outcome: CallOutcome) -> bytes:
    """The line of an outcome, or of its failure when the line would be longer than the host takes."""
    line = b""
    with suppress(Exception):
        line = dump_outcome(outcome)
    if 0 < len(line) <= MAX_LINE_BYTES:
        return line
    message = f"what a call returns may take {MAX_LINE_BYTES} bytes, got {len(line)}"
    return dump_outcome(CallOutcome(outcome.call, outcome.seconds, kind="invalid", message=message, last=outcome.last))
