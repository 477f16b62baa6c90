"""What a response consists of while it is made, and the record of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reasoner.errors import SamplerError
from reasoner.io.token_array import TokenArray
from reasoner.records import (
    UNKNOWN_EXPERT,
    EnvironmentReport,
    FinishReason,
    Observation,
    PartialResponse,
    Response,
    SamplingParams,
    ToolCall,
    Turn,
)
from reasoner.sampling.base import Completion
from reasoner.sampling.responses import opened_block, response_text
from reasoner.trajectories.joints import end_across

CallReader = Callable[[Sequence[int], str], tuple[ToolCall, ...]]
"""`(token ids, text)` of a turn of the policy -> the calls in it"""


@dataclass(frozen=True, slots=True)
class TurnDecoder:
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
    decoder: TurnDecoder
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    policy_mask: bytearray = field(default_factory=bytearray)
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    turns: list[Turn] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)
    """position of the first token of each version of the weights, and the version"""
    turn_seconds: float = 0.0
    """that the turn which is being written took before it was interrupted"""
    carried: int = 0
    """tokens that an earlier step wrote"""
    discarded: int = 0
    """tokens of the policy that were given up, and are not among these"""
    routes: array[int] = field(default_factory=lambda: array("H"))
    """experts that the sampler chose (`Response.routes`)"""

    @classmethod
    def of(cls, partial: PartialResponse, prompt_ids: Sequence[int], decoder: TurnDecoder) -> Transcript:
        """What there is of a response that is continued."""
        return cls(
            prompt_ids,
            decoder,
            array("i", partial.token_ids),
            bytearray(partial.policy_mask),
            array("f", partial.sampler_logprobs),
            [*partial.turns],
            [*partial.versions],
            partial.turn_seconds,
            len(partial.token_ids),
            partial.discarded_tokens,
            array("H", partial.routes),
        )

    @property
    def turn_start(self) -> int:
        """Where the turn begins that the policy writes, or is about to write."""
        return self.turns[-1].end if self.turns else 0

    @property
    def context(self) -> TokenArray[int]:
        """What the policy continues."""
        return TokenArray.joined([self.prompt_ids, self.token_ids], "int32")

    def write(self, completion: Completion, seconds: float) -> None:
        """Add what the policy wrote, of a turn that it may go on with."""
        first = len(self.token_ids)
        self._add(completion.token_ids, completion.logprobs, policy=True)
        for at, version in ((0, completion.version), *completion.version_changes) if completion.token_ids else ():
            if not self.versions or self.versions[-1][1] != version:
                self.versions.append((first + at, version))
        self.routes.frombytes(TokenArray(completion.routes[len(self.routes) :], "uint16").tobytes())
        self.turn_seconds += seconds

    def end_turn(
        self, completion: Completion, params: SamplingParams, seconds: float, read: CallReader | None = None
    ) -> tuple[Turn, FinishReason]:
        """Add the end of a turn of the policy; returns the turn, and why it ended.

        Args:
            completion: of what the turn had so far.
            params: with which it was sampled.
            seconds: that it took.
            read: finds the calls in a turn that ended by itself; None: there are none.

        Raises:
            SamplerError: the engine aborted it unasked.
        """
        if completion.finish == "abort":
            raise SamplerError(
                "the engine aborted a generation that nobody wanted aborted: it is no sample of the policy"
            )
        first, joint, finish = self.turn_start, len(self.token_ids), completion.finish
        self.write(completion, seconds)
        if joint > first:
            across = end_across(self.decoder.tokenizer, self.token_ids[first:], joint - first, params)
            if across is not None:
                finish = across[1]
                self._cut(first + across[0])
        return self._close_turn(read if finish == "stop" else None), finish

    def break_off(self) -> None:
        """End the turn that was interrupted and will not be continued, if there is one: no calls are read in it."""
        if self.turn_start < len(self.token_ids):
            self._close_turn(None)

    def _close_turn(self, read: CallReader | None) -> Turn:
        """Make a turn of what the policy wrote since the last one."""
        first = self.turn_start
        written = self.token_ids[first:]
        text = self.decoder.text(TokenArray.joined([self.prompt_ids, self.token_ids[:first]], "int32"), written)
        calls = read(written, text) if read else ()
        turn = Turn("assistant", first, len(self.token_ids), text, calls, seconds=self.turn_seconds)
        self.turns.append(turn)
        self.turn_seconds = 0.0
        return turn

    def begin_anew(self) -> None:
        """Give up all tokens."""
        self.discarded += sum(self.policy_mask)
        self.carried, self.turn_seconds = 0, 0.0
        self._cut(0)
        self.turns, self.versions = [], []

    def partial(self, sample: int, rewards: Sequence[float | None], parts: Mapping[str, Any]) -> PartialResponse:
        """What there is, to be continued later.

        Args:
            sample: the index of the response in its group.
            rewards: of the environment, after each turn that it answered.
            parts: that it reported.
        """
        return PartialResponse(
            sample=sample,
            token_ids=self.token_ids,
            policy_mask=TokenArray.frombytes(bytes(self.policy_mask), "bool"),
            sampler_logprobs=self.logprobs,
            versions=tuple(self.versions),
            turns=tuple(self.turns),
            turn_seconds=self.turn_seconds,
            rewards=tuple(rewards),
            parts=dict(parts),
            discarded_tokens=self.discarded,
            routes=self.routes,
        )

    def append(self, observation: Observation, parts: Sequence[Sequence[int]]) -> None:
        """Add the messages that answer a turn.

        Args:
            parts: token ids of each message, with what the chat template writes around it.
        """
        answers = zip(observation.messages, observation.errors, observation.seconds, parts, strict=True)
        for message, error, seconds, token_ids in answers:
            first = len(self.token_ids)
            self._add(token_ids, [0.0] * len(token_ids), policy=False)
            role: Literal["tool", "user"] = "tool" if message.role == "tool" else "user"
            end = len(self.token_ids)
            self.turns.append(Turn(role, first, end, message.content, (), message.name, error, seconds))

    def add_placeholder(self, version: int) -> None:
        """The environment failed before anything was sampled: a response needs a token, and this one is not the
        policy's.

        Args:
            version: of the weights that would have sampled.
        """
        self._add([min(self.decoder.end_tokens, default=0)], [0.0], policy=False)
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
            carried_tokens=min(self.carried, len(self.token_ids)),
            discarded_tokens=self.discarded,
            routes=self._whole_routes(),
        )

    def _whole_routes(self) -> array[int]:
        """The experts for every token but the last: what was appended after the policy's last token was never read."""
        if not self.routes:
            return self.routes
        width = len(self.routes) // (len(self.prompt_ids) + self.policy_mask.rindex(True))
        unread = width * (len(self.prompt_ids) + len(self.token_ids) - 1) - len(self.routes)
        return self.routes + array("H", [UNKNOWN_EXPERT]) * unread

    def _cut(self, end: int) -> None:
        """Leave out the tokens from this position on."""
        if self.routes:
            read = len(self.prompt_ids) + len(self.token_ids) - 1
            del self.routes[len(self.routes) // read * (len(self.prompt_ids) + end - 1) if end else 0 :]
        del self.token_ids[end:]
        del self.policy_mask[end:]
        del self.logprobs[end:]
        self.versions = [version for version in self.versions if version[0] < end]

    def _add(self, token_ids: Sequence[int], logprobs: Sequence[float], *, policy: bool) -> None:
        self.token_ids.frombytes(TokenArray(token_ids, "int32").tobytes())
        self.policy_mask += bytes([policy]) * len(token_ids)
        self.logprobs.frombytes(TokenArray(logprobs, "float32").tobytes())
