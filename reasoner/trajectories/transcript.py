"""What a response consists of while it is made, and the record of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reasoner.io.token_array import TokenArray
from reasoner.records import EnvironmentReport, FinishReason, Observation, Response, ToolCall, Turn
from reasoner.sampling.base import Completion
from reasoner.sampling.responses import opened_block, response_text

Reader = Callable[[Sequence[int], str], tuple[ToolCall, ...]]
"""`(token ids, text)` of a turn of the policy -> the calls in it"""


@dataclass(frozen=True, slots=True)
class Reading:
    """How tokens become text."""

    tokenizer: Any
    end_tokens: Collection[int]
    """ids that end a turn of the policy, and are no text"""
    stop: Sequence[str]
    """strings before which the text of a turn is cut"""

    def text(self, before: Sequence[int], token_ids: Sequence[int]) -> str:
        """What the policy wrote after the tokens `before`, with the thinking block that they open."""
        opened = opened_block(self.tokenizer, before)
        return response_text(self.tokenizer, token_ids, self.stop, opened, self.end_tokens)


@dataclass
class Transcript:
    """The tokens of one response so far: what the policy wrote and what was appended, none of them made twice."""

    prompt_ids: Sequence[int]
    reading: Reading
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    policy_mask: bytearray = field(default_factory=bytearray)
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    turns: list[Turn] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)
    """position of the first token of each version of the weights, and the version"""

    @property
    def context(self) -> TokenArray[int]:
        """What the policy continues."""
        return TokenArray.joined([self.prompt_ids, self.token_ids], "int32")

    def write(self, completion: Completion, seconds: float, read: Reader | None = None) -> Turn:
        """Add a turn of the policy.

        Args:
            seconds: that it took.
            read: finds the calls in it; None: there are none.
        """
        first = len(self.token_ids)
        text = self.reading.text(self.context, completion.token_ids)
        self._add(completion.token_ids, completion.logprobs, policy=True)
        for at, version in ((0, completion.version), *completion.version_changes):
            if not self.versions or self.versions[-1][1] != version:
                self.versions.append((first + at, version))
        calls = () if read is None else read(completion.token_ids, text)
        self.turns.append(Turn("assistant", first, len(self.token_ids), text, calls, seconds=seconds))
        return self.turns[-1]

    def append(self, observation: Observation, parts: Sequence[Sequence[int]]) -> None:
        """Add the messages that answer a turn.

        Args:
            parts: token ids of each message, with what the chat template writes around it.
        """
        said = zip(observation.messages, observation.errors, observation.seconds, parts, strict=True)
        for message, error, seconds, token_ids in said:
            first = len(self.token_ids)
            self._add(token_ids, [0.0] * len(token_ids), policy=False)
            role: Literal["tool", "user"] = "tool" if message.role == "tool" else "user"
            end = len(self.token_ids)
            self.turns.append(Turn(role, first, end, message.content, (), message.name, error, seconds))

    def never_begun(self, version: int) -> None:
        """The environment failed before anything was sampled: a response needs a token, and this one is not the
        policy's.

        Args:
            version: of the weights that would have sampled.
        """
        self._add([min(self.reading.end_tokens, default=0)], [0.0], policy=False)
        self.versions.append((0, version))

    def response(self, finish: FinishReason, report: EnvironmentReport | None) -> Response:
        """The record.

        Args:
            report: of the environment; None: there is none, and the response is one turn.
        """
        return Response(
            text=next((turn.text for turn in reversed(self.turns) if turn.role == "assistant"), ""),
            token_ids=self.token_ids,
            policy_mask=TokenArray.frombytes(bytes(self.policy_mask), "bool"),
            sampler_logprobs=self.logprobs,
            finish_reason=finish,
            policy_version=self.versions[0][1],
            version_changes=tuple(self.versions[1:]),
            turns=() if report is None else tuple(self.turns),
            report=report,
        )

    def _add(self, token_ids: Sequence[int], logprobs: Sequence[float], *, policy: bool) -> None:
        self.token_ids.frombytes(TokenArray(token_ids, "int32").tobytes())
        self.policy_mask += bytes([policy]) * len(token_ids)
        self.logprobs.frombytes(TokenArray(logprobs, "float32").tobytes())
