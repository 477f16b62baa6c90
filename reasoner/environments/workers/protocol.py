"""The lines that pass between the main process, the environment host and its workers: JSON, never a pickle.

    main -> host      plan line, then `call <id> <seat> <timeout_s> <request>` per call, `drop <id>` for a call that
                      nobody waits for any more, `leave <seat>` at the end of a seat, `cancel` or `close`
    host -> main      `{"ready": true}` or `{"refused": why}`, then one outcome per call, before it
                      `printed {"call", "text"}` if the call wrote to standard output or error
    host -> worker    `<id> <request>`
    worker -> host    one outcome line per call, `created <path>` before a call creates a file in /dev/shm

A *seat* is what keeps state for one response: its environment, or one of its tools. Seat 0 keeps none: its calls share
workers. The host never reads a request; only the worker does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reasoner.config import EnvironmentConfig
from reasoner.errors import DataError
from reasoner.io.redaction import know_variables
from reasoner.io.safe_text import storable
from reasoner.io.serialization import from_json, to_json
from reasoner.records import FailureKind, Message, Observation, Problem, Turn
from reasoner.workers.lines import PRINTED, dump_line

SHARED = 0
"""the seat of calls that keep no state"""
CALL, DROP, LEAVE = b"call", b"drop", b"leave"
"""how lines of the main process begin"""
Operation = Literal["start", "step", "close", "tool"]


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """What the host is started with."""

    environment: EnvironmentConfig
    plugins: tuple[str, ...]
    parent: int
    """process id of the main process; the host ends when it has another parent"""


@dataclass(frozen=True, slots=True)
class CallRequest:
    """What a worker is asked for."""

    operation: Operation
    tool: str = ""
    """name of the tool that is called; of a `close`, the tool whose seat it is, empty for the environment"""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    """of `start`"""
    turn: Turn | None = None
    """of `step`"""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of a call. `kind` is None when it delivered."""

    call: int
    seconds: float
    text: str = ""
    """of a tool"""
    messages: tuple[Message, ...] = ()
    """of `start`"""
    observation: Observation | None = None
    """of `step`; None: the environment says nothing"""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """of `close`"""
    kind: FailureKind | None = None
    message: str = ""
    trace: str = ""
    """of a call that raised: the last lines of its traceback"""
    last: bool = False
    """the worker must be replaced: the call left something behind in it"""
    left: str = ""
    """what it left, in words"""


def dump_environment_plan(plan: EnvironmentPlan) -> bytes:
    """One line."""
    return dump_line(
        {"environment": plan.environment.model_dump(), "plugins": plan.plugins, "parent": plan.parent},
    )


def load_environment_plan(line: bytes) -> EnvironmentPlan:
    """The inverse. The variables that it names are secret in this process from here on."""
    data = json.loads(line)
    config = EnvironmentConfig.model_validate(data["environment"])
    for options in (config.options, *config.tool_options.values()):
        know_variables(options)  # the workers cut messages, and hide what must not be cut
    return EnvironmentPlan(config, tuple(data["plugins"]), data["parent"])


def dump_call(call: int, seat: int, timeout_s: float, request: CallRequest) -> bytes:
    """One line for the host."""
    return b"%b %d %d %r %b\n" % (CALL, call, seat, timeout_s, to_json(request).encode())


def load_request(payload: bytes) -> CallRequest:
    """What a worker is asked for."""
    return from_json(payload, CallRequest)


def dump_outcome(outcome: CallOutcome) -> bytes:
    """One line."""
    return to_json(outcome).encode() + b"\n"


def load_outcome(line: bytes) -> CallOutcome:
    """The inverse.

    Raises:
        ValueError: the line is no outcome. A call may have written it, so nothing in it is taken on trust.
    """
    try:
        return from_json(line, CallOutcome)
    except DataError as error:
        raise ValueError(f"not an outcome: {error}") from error


def dump_call_output(call: int, text: str) -> bytes:
    """One line: what a call printed."""
    return PRINTED + dump_line({"call": call, "text": text})


def load_call_output(line: bytes) -> tuple[int, str]:
    """The call, and what it printed."""
    data = storable(json.loads(line.removeprefix(PRINTED)))
    return data["call"], data["text"]
