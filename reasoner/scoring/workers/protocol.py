"""The lines that pass between the main process, the scoring host and its workers: JSON, never a pickle.

    main -> host      plan line, then `<task> <rewards, comma-separated> <payload>` per task, `cancel` or `close`
    host -> main      `{"ready": traits}` or `{"refused": why}`, then one result line per call, before it
                      `printed {"task", "reward", "text"}` if the call wrote to standard output or error
    host -> worker    the task, without the rewards that have an outcome
    worker -> host    one result line per call, `created <path>` before a call creates a file in /dev/shm

A task is what its rewards are called with: a response, a group, or a batch. All its rewards are of one lane (`Traits`).
The host never reads a payload; only the worker does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import DataError
from reasoner.io.redaction import know_variables, redact
from reasoner.io.safe_text import storable
from reasoner.io.serialization import from_json, to_json
from reasoner.io.token_array import Kind, TokenArray
from reasoner.plugins.reward_api import Granularity
from reasoner.records import (
    EnvironmentReport,
    Failure,
    FailureKind,
    Message,
    Problem,
    Response,
    Score,
    ToolCall,
    Turn,
)
from reasoner.scoring.composition import Refused
from reasoner.workers.lines import PRINTED, dump_line

COMMON = -1
"""the lane of all sources without workers of their own; another one has the index of the first reward of its source"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the host is started with."""

    rewards: tuple[RewardConfig, ...]
    scoring: ScoringConfig
    plugins: tuple[str, ...]
    parent: int
    """process id of the main process; the host ends when it has another parent"""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the main process, which imports no plugin, must know of a configured reward source."""

    granularity: Granularity
    lane: int
    """rewards of one lane share workers and a queue; `COMMON` is that of the sources without workers of their own"""
    cache: bool
    timeout_s: float
    """seconds per call, all its attempts together"""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The outcome of one call. `kind` is None when the source delivered, for some of its responses at least."""

    task: int
    reward: int
    """index in the configured rewards"""
    seconds: float
    scores: tuple[Score | Refused | None, ...] = ()
    """one per response of the task; None: not applicable"""
    kind: FailureKind | None = None
    message: str = ""
    last: bool = False
    """the worker must be replaced: the call left something behind in it"""
    left: str = ""
    """what it left, in words"""
    trace: str = ""
    """of a call that raised: the last lines of its traceback"""

    def outcomes(self, source: str, responses: int) -> Sequence[Score | Failure | None]:
        """As the rest of the pipeline sees it: one per response, None for not applicable; no secrets in messages."""
        if self.kind is not None:
            return [Failure(source, self.kind, redact(self.message), self.seconds)] * responses
        return [
            Failure(source, score.kind, redact(score.message), self.seconds) if isinstance(score, Refused) else score
            for score in self.scores
        ]


def dump_plan(plan: Plan) -> bytes:
    """One line."""
    return dump_line(
        {
            "rewards": [reward.model_dump() for reward in plan.rewards],
            "scoring": plan.scoring.model_dump(),
            "plugins": plan.plugins,
            "parent": plan.parent,
        }
    )


def load_plan(line: bytes) -> Plan:
    """The inverse of `dump_plan`. The variables that it names are secret in this process from here on."""
    data = json.loads(line)
    rewards = tuple(RewardConfig.model_validate(reward) for reward in data["rewards"])
    for reward in rewards:
        know_variables(reward.options)  # the workers cut messages, and hide what must not be cut
    return Plan(rewards, ScoringConfig.model_validate(data["scoring"]), tuple(data["plugins"]), data["parent"])


def dump_traits(traits: Sequence[Traits]) -> bytes:
    """The line with which the host says that it is ready."""
    return dump_line({"ready": [asdict(trait) for trait in traits]})


def load_start(line: bytes) -> list[Traits] | str:
    """The traits of the configured rewards, or why the host refuses to start.

    Raises:
        ValueError: the line says neither.
    """
    try:
        data = json.loads(line)
        return str(data["refused"]) if "refused" in data else [Traits(**fields) for fields in data["ready"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not the host's first line: {error}") from error


def dump_content(problem: Problem) -> bytes:
    """What a problem asks, without its name: JSON."""
    messages = [
        {"role": message.role, "content": message.content} | ({"name": message.name} if message.name else {})
        for message in problem.messages
    ]
    return json.dumps({"messages": messages, "answer": problem.answer, "fields": dict(problem.fields)}).encode()


def dump_problem(problem: Problem, content: bytes) -> bytes:
    """A problem whose content is encoded already: JSON."""
    return b'{"id":%b,"content":%b}' % (json.dumps(problem.id).encode(), content)


def dump_response(response: Response) -> bytes:
    """JSON."""
    fields = json.dumps(
        {
            "text": response.text,
            "finish_reason": response.finish_reason,
            "policy_version": response.policy_version,
            "version_changes": response.version_changes,
            "turns": [asdict(turn) for turn in response.turns],
            "report": None if response.report is None else asdict(response.report),
        }
    ).encode()
    numbers = {
        "token_ids": _pack(response.token_ids, "int32"),
        "policy_mask": _pack(response.policy_mask, "bool"),
        "sampler_logprobs": _pack(response.sampler_logprobs, "float32"),
    }
    members = b"".join(b',"%b":"%b"' % (name.encode(), packed) for name, packed in numbers.items())
    return b"%b%b}" % (fields.removesuffix(b"}"), members)


def dump_task(task: int, rewards: Sequence[int], problems: Sequence[bytes], responses: Sequence[bytes]) -> bytes:
    """One line. Problems and responses are encoded already; a task of a response or a group has one problem."""
    payload = b'{"problems":[%b],"responses":[%b]}' % (b",".join(problems), b",".join(responses))
    return b"%d %b %b\n" % (task, ",".join(map(str, rewards)).encode(), payload)


def load_task(payload: bytes) -> tuple[list[Problem], list[Response]]:
    """The problems and responses of a payload."""
    data = json.loads(payload)
    return [_load_problem(fields) for fields in data["problems"]], [
        _load_response(fields) for fields in data["responses"]
    ]


def dump_result(result: CallResult) -> bytes:
    """One line."""
    return to_json(result).encode() + b"\n"


def dump_printed(task: int, reward: int, text: str) -> bytes:
    """One line: what a call printed."""
    return PRINTED + dump_line({"task": task, "reward": reward, "text": text})


def load_printed(line: bytes) -> tuple[tuple[int, int], str]:
    """Task and reward of the call, and what it printed."""
    data = storable(json.loads(line.removeprefix(PRINTED)))
    return (data["task"], data["reward"]), data["text"]


def load_result(line: bytes) -> CallResult:
    """The inverse of `dump_result`.

    Raises:
        ValueError: the line is not a result. A reward source may have written it, so nothing in it is taken on trust.
    """
    try:
        return from_json(line, CallResult)
    except DataError as error:
        raise ValueError(f"not a result: {error}") from error


def _load_problem(data: dict[str, Any]) -> Problem:
    content = data["content"]
    messages = tuple(Message(**message) for message in content["messages"])
    return Problem(data["id"], messages, content["answer"], content["fields"])


def _load_response(data: dict[str, Any]) -> Response:
    return Response(
        text=data["text"],
        token_ids=_unpack(data["token_ids"], "int32"),
        policy_mask=_unpack(data["policy_mask"], "bool"),
        sampler_logprobs=_unpack(data["sampler_logprobs"], "float32"),
        finish_reason=data["finish_reason"],
        policy_version=data["policy_version"],
        version_changes=tuple((at, version) for at, version in data["version_changes"]),
        turns=tuple(_load_turn(turn) for turn in data["turns"]),
        report=None if data["report"] is None else _load_report(data["report"]),
    )


def _load_turn(data: dict[str, Any]) -> Turn:
    return Turn(**data | {"calls": tuple(ToolCall(**call) for call in data["calls"])})


def _load_report(data: dict[str, Any]) -> EnvironmentReport:
    failure = data["failure"] and Failure(**data["failure"])
    return EnvironmentReport(**data | {"turn_rewards": tuple(data["turn_rewards"]), "failure": failure})


def _pack(values: Sequence[float], kind: Kind) -> bytes:
    # Thousands of numbers as text would cost more than the verifier: exact bytes, base64.
    return base64.b64encode(TokenArray(values, kind).tobytes())


def _unpack(text: str, kind: Kind) -> TokenArray[Any]:
    return TokenArray.frombytes(base64.b64decode(text), kind)
