"""One response: the policy writes, its calls are read, the environment answers, the policy goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoner.distributed.seeds import derive_seed
from reasoner.environments.base import EnvironmentFailedError, EnvironmentSession
from reasoner.errors import DataError
from reasoner.records import (
    EnvironmentReport,
    Failure,
    FinishReason,
    PartialResponse,
    Prompt,
    Response,
    SamplingParams,
    ToolCall,
    Turn,
)
from reasoner.sampling.base import Completion
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.token_client import TokenClient
from reasoner.trajectories.transcript import Transcript, TurnDecoder


@dataclass(frozen=True, slots=True)
class SamplingContext:
    """What all responses of one `sample` call to the problems of one task are made with."""

    client: TokenClient
    params: SamplingParams
    """`max_tokens` is the most tokens of a response: all its turns, and what is appended between them."""
    decoder: TurnDecoder
    version: int
    """of the weights when it began"""
    max_model_len: int
    """most tokens of a prompt and its response"""


@dataclass(slots=True)
class GroupPrompt:
    """The prompt of a group, to which the environment may add messages: the same ones for all responses."""

    prompt: Prompt
    seed: int
    """of the group's own noise, below 2^62"""
    opening_ids: Sequence[int] | None = None
    """its tokens with what the environment added; None: no response has begun"""

    @property
    def token_ids(self) -> Sequence[int]:
        """What the responses continue."""
        return self.opening_ids or self.prompt.token_ids

    def open(self, session: EnvironmentSession, interaction: Interaction) -> tuple[int, ...]:
        """The tokens that a response continues.

        Raises:
            EnvironmentFailedError: they are not those of the group's first response.
        """
        token_ids = self.prompt.token_ids
        if session.opening:
            token_ids = interaction.turn_format.prompt(self.prompt.problem, session.opening)
        self.opening_ids = self.opening_ids or token_ids
        if token_ids != self.opening_ids:
            raise _invalid(
                "it opens the same problem in different ways, and the responses of a group continue one prompt: "
                "derive what is chosen at random from the problem"
            )
        return token_ids


ResponseOutcome = Response | PartialResponse
"""a response, or what there is of one where the client was stopped"""


async def sample_single_turns(
    sampling: SamplingContext, group: GroupPrompt, samples: Sequence[int], partial: Mapping[int, PartialResponse]
) -> list[tuple[int, ResponseOutcome]]:
    """Responses of one turn to a prompt, and their index in the group. Those that have no token yet are one request,
    each of the others is one of its own.

    Args:
        samples: the indices of the responses that are not complete.
        partial: what there is of them.

    Raises:
        SamplerError: the engine failed, or is gone.
    """
    transcripts = {
        sample: Transcript.of(partial.get(sample, PartialResponse(sample)), group.token_ids, sampling.decoder)
        for sample in samples
    }
    unbegun = [sample for sample in samples if not transcripts[sample].token_ids]
    started = time.perf_counter()

    async def complete(members: Sequence[int], params: SamplingParams) -> list[tuple[int, ResponseOutcome]]:
        context = transcripts[members[0]].context
        what = f"problem {group.prompt.problem.id}, {len(members)} of its responses"
        completions = await sampling.client.generate(context, len(members), params, what)
        return [
            (sample, _end_single(sampling, transcripts[sample], sample, completion, time.perf_counter() - started))
            for sample, completion in zip(members, completions, strict=True)
        ]

    jobs = [complete(unbegun, replace(sampling.params, seed=group.seed))] if unbegun else []
    for sample in samples:
        if written := len(transcripts[sample].token_ids):
            seed, left = _turn_seed(group, sample, 0), sampling.params.max_tokens - written
            jobs.append(complete([sample], replace(sampling.params, seed=seed, max_tokens=left)))
    if len(jobs) == 1:  # a task of its own would ask for it one turn of the loop later, and so in another batch
        return await jobs[0]
    return [outcome for members in await asyncio.gather(*jobs) for outcome in members]


def _end_single(
    sampling: SamplingContext, transcript: Transcript, sample: int, completion: Completion, seconds: float
) -> ResponseOutcome:
    if completion.finish == "abort" and sampling.client.is_stopped:
        transcript.write(completion, seconds)
        return transcript.partial(sample, (), {})
    _, finish = transcript.end_turn(completion, sampling.params, seconds)
    return transcript.response(finish, None)


def _turn_seed(group: GroupPrompt, sample: int, turn: int) -> int:
    return derive_seed(group.seed, "turn", sample, turn) >> 1


@dataclass(slots=True)
class Trajectory:
    """A response with tools or an environment.

    Args:
        sample: its index in its group.
        kept: what there is of it already.
        session: that goes with it, still open; None: it has none, or its process is gone, and it is rebuilt.
    """

    sampling: SamplingContext
    interaction: Interaction
    group: GroupPrompt
    sample: int
    kept: PartialResponse
    session: EnvironmentSession | None = None
    is_opening: bool = False
    """its environment starts, or is brought to where it was: nothing is lost where that is cancelled"""
    _rewards: list[float | None] = field(default_factory=list)
    """after each turn that the environment answered"""
    _parts: dict[str, Any] = field(default_factory=dict)
    _failure: Failure | None = None

    async def run(self) -> ResponseOutcome:
        """Make the response: until the environment ends it or fails, or the policy has no tokens left; or until the
        client is stopped: `session` is left open then.

        Raises:
            SamplerError: the engine failed, or is gone.
        """
        transcript = Transcript.of(self.kept, self.group.prompt.token_ids, self.sampling.decoder)
        finish: FinishReason | None = "stop"
        self._rewards, self._parts = [*self.kept.rewards], dict(self.kept.parts)
        try:
            try:
                session = await self._open_session(transcript)
                transcript.prompt_ids = self._prompt(session)
                finish = await self._take_turns(session, transcript)
            finally:
                if finish is not None and self.session is not None:
                    self._parts |= await self.session.close()
                    self.session = None
        except EnvironmentFailedError as error:
            self._failure = error.failure
        except DataError as error:  # the tokenizer has no tokens for what the environment says
            self._failure = Failure("environment", "invalid", str(error), 0.0)
        if finish is None:
            return transcript.partial(self.sample, self._rewards, self._parts)
        transcript.break_off()  # where the environment could not be brought back to the middle of a turn
        if not transcript.token_ids:
            transcript.add_placeholder(self.sampling.version)
        return transcript.response(finish, self._report())

    async def _open_session(self, transcript: Transcript) -> EnvironmentSession:
        """The session of the response; a new one is brought to where the last one was, or the response begins anew.

        Raises:
            EnvironmentFailedError: the environment failed.
        """
        if self.session is None:
            self.is_opening = True
            self.session = await self._start()
            if transcript.turns and not await _replay(self.session, self.kept):
                transcript.begin_anew()
                self._rewards, self._parts = [], {}
                await self.session.close()
                self.session = await self._start()
            self.is_opening = False
        return self.session

    async def _start(self) -> EnvironmentSession:
        return await self.interaction.environments.start(self.group.prompt.problem, self._name)

    @property
    def _name(self) -> str:
        return f"problem {self.group.prompt.problem.id}, response {self.sample}"

    def _prompt(self, session: EnvironmentSession) -> tuple[int, ...]:
        """The tokens that the response continues.

        Raises:
            EnvironmentFailedError: they leave no room for it, or differ from those of the group.
        """
        token_ids = self.group.open(session, self.interaction)
        room = self.sampling.max_model_len - self.sampling.params.max_tokens
        if len(token_ids) > room:
            raise _invalid(
                f"with what it adds the prompt has {len(token_ids)} tokens, and there is room for {room}: raise "
                "sampling.max_prompt_tokens"
            )
        return token_ids

    async def _take_turns(self, session: EnvironmentSession, transcript: Transcript) -> FinishReason | None:
        """Let the policy and the environment take turns; returns why they ended; None: the client was stopped."""
        sampling, format_ = self.sampling, self.interaction.turn_format
        most = sampling.params.max_tokens
        while True:
            seed, left = _turn_seed(self.group, self.sample, len(self._rewards)), most - len(transcript.token_ids)
            params = replace(sampling.params, max_tokens=left, stop=(*sampling.params.stop, *format_.stop), seed=seed)
            started = time.perf_counter()
            (completion,) = await sampling.client.generate(transcript.context, 1, params, self._name)
            seconds = time.perf_counter() - started
            if completion.finish == "abort" and sampling.client.is_stopped:
                transcript.write(completion, seconds)
                return None
            turn, finish = transcript.end_turn(completion, params, seconds, self._read)
            if finish != "stop":
                return finish
            observation = await session.step(turn)
            self._rewards.append(observation.reward)
            self._parts |= observation.parts
            if observation.done:
                return self._end(turn)
            parts = format_.increment(transcript.token_ids[turn.first : turn.end], observation.messages)
            if len(transcript.token_ids) + sum(map(len, parts)) >= most:
                return "length"
            transcript.append(observation, parts)

    def _read(self, token_ids: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        return self.interaction.environments.check_calls(self.interaction.turn_format.read(token_ids, text))

    def _end(self, turn: Turn) -> FinishReason:
        """Of a response that the environment ends: a policy that still calls tools at its last turn was cut."""
        return "length" if turn.calls and len(self._rewards) >= self.interaction.max_turns else "stop"

    def _report(self) -> EnvironmentReport:
        rewards = [reward for reward in self._rewards if reward is not None]
        return EnvironmentReport(
            reward=sum(rewards) if rewards else None,
            parts=self._parts,
            turn_rewards=tuple(reward or 0.0 for reward in self._rewards) if rewards else (),
            failure=self._failure,
        )


async def _replay(session: EnvironmentSession, kept: PartialResponse) -> bool:
    """Give a new session the turns that the policy has made; whether it answers each as it was answered before.

    Raises:
        EnvironmentFailedError: the environment failed.
    """
    turns, rewards = list(kept.turns), list[float | None]()
    while turns:
        observation = await session.step(turns.pop(0))
        rewards.append(observation.reward)
        answers = [(turn.role, turn.text, turn.tool) for turn in turns[: len(observation.messages)]]
        observed = [
            ("tool" if message.role == "tool" else "user", message.content, message.name)
            for message in observation.messages
        ]
        if observation.done or observed != answers:
            return False
        del turns[: len(observed)]
    return tuple(rewards) == kept.rewards


def _invalid(message: str) -> EnvironmentFailedError:
    return EnvironmentFailedError(Failure("environment", "invalid", message, 0.0))
