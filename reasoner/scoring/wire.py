"""The lines that pass between the main process, the scoring host and its workers: JSON, never a pickle.

    main -> host      plan line, then `<task> <payload>` per response, `cancel` or `close`
    host -> main      `{"ready": true}` or `{"refused": why}`, then one result line per call
    host -> worker    `<task> <rewards, comma-separated> <payload>`
    worker -> host    one result line per call

A task is one response with all its rewards. The host never reads a payload; only the worker does.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.records import Failure, FailureKind, Message, Problem, Response, Score

START_S = 120
"""seconds in which the host must have imported and prepared all plugins"""
CANCEL = b"cancel"
"""forget every task and end what is running"""
CLOSE = b"close"
"""end"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the host is started with."""

    rewards: tuple[RewardConfig, ...]
    scoring: ScoringConfig
    plugins: tuple[str, ...]
    parent: int
    """process id of the main process; the host ends when it has another parent"""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one call. `kind` is None when the source delivered."""

    task: int
    reward: int
    """index in the configured rewards"""
    seconds: float
    value: float | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    kind: FailureKind | None = None
    message: str = ""
    last: bool = False
    """the worker must be replaced: the call left something behind in it"""

    def outcome(self, source: str) -> Score | Failure | None:
        """As the rest of the pipeline sees it; None: not applicable."""
        if self.kind is not None:
            return Failure(source, self.kind, self.message, self.seconds)
        return None if self.value is None else Score(self.value, self.parts, self.note)


_RESULT = tuple(each.name for each in fields(Result))


def dump_plan(plan: Plan) -> bytes:
    """One line."""
    return _line(
        {
            "rewards": [reward.model_dump() for reward in plan.rewards],
            "scoring": plan.scoring.model_dump(),
            "plugins": plan.plugins,
            "parent": plan.parent,
        }
    )


def load_plan(line: bytes) -> Plan:
    """The inverse of `dump_plan`."""
    data = json.loads(line)
    rewards = tuple(RewardConfig.model_validate(reward) for reward in data["rewards"])
    return Plan(rewards, ScoringConfig.model_validate(data["scoring"]), tuple(data["plugins"]), data["parent"])


def dump_message(message: dict[str, Any]) -> bytes:
    """One line of the host about itself."""
    return _line(message)


def dump_tasks(first: int, problem: Problem, responses: Sequence[Response]) -> bytes:
    """One line per response, numbered from `first`; the problem is encoded once."""
    shared = _dump_problem(problem)
    return b"".join(
        b'%d {"problem":%b,"response":%b}\n' % (first + index, shared, _dump_response(response))
        for index, response in enumerate(responses)
    )


def load_task(payload: bytes) -> tuple[Problem, Response]:
    """The problem and response of a payload."""
    data = json.loads(payload)
    problem, response = data["problem"], data["response"]
    messages = tuple(Message(**message) for message in problem.pop("messages"))
    return Problem(messages=messages, **problem), Response(
        text=response["text"],
        token_ids=tuple(_unpack("q", response["token_ids"])),
        policy_mask=tuple(map(bool, _unpack("B", response["policy_mask"]))),
        sampler_logprobs=tuple(_unpack("d", response["sampler_logprobs"])),
        finish_reason=response["finish_reason"],
        policy_version=response["policy_version"],
    )


def dump_result(result: Result) -> bytes:
    """One line."""
    return _line({name: getattr(result, name) for name in _RESULT})


def load_result(line: bytes) -> Result:
    """The inverse of `dump_result`.

    Raises:
        ValueError, TypeError, RecursionError: the line is not a result.
    """
    return Result(**json.loads(line))


class LineBuffer:
    """Puts lines together from chunks of any size."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.pending = 0
        """bytes of the line that is not complete yet"""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newline."""
        head, newline, rest = data.partition(b"\n")
        self._chunks.append(head)
        self.pending += len(head)
        if not newline:
            return []
        *lines, tail = rest.split(b"\n")
        lines.insert(0, b"".join(self._chunks))
        self._chunks, self.pending = [tail], len(tail)
        return lines


def _dump_problem(problem: Problem) -> bytes:
    messages = [{"role": message.role, "content": message.content} for message in problem.messages]
    return json.dumps(
        {"id": problem.id, "messages": messages, "answer": problem.answer, "fields": dict(problem.fields)}
    ).encode()


def _dump_response(response: Response) -> bytes:
    return json.dumps(
        {
            "text": response.text,
            "token_ids": _pack("q", response.token_ids),
            "policy_mask": _pack("B", response.policy_mask),
            "sampler_logprobs": _pack("d", response.sampler_logprobs),
            "finish_reason": response.finish_reason,
            "policy_version": response.policy_version,
        }
    ).encode()


def _pack(code: str, values: Sequence[float]) -> str:
    # Thousands of numbers as text would cost more than the verifier: exact bytes, base64.
    return base64.b64encode(array(code, values).tobytes()).decode()


def _unpack(code: str, text: str) -> array[Any]:
    values = array(code)
    values.frombytes(base64.b64decode(text))
    return values


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
