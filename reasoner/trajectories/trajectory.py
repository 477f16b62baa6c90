"""One response: the policy writes, its calls are read, the environment answers, the policy goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reasoner.distributed.seeds import derive_seed
from reasoner.environments.base import EnvironmentFailedError, EnvironmentSession
from reasoner.errors import DataError, SamplerError
from reasoner.records import (
    EnvironmentReport,
    Failure,
    FinishReason,
    Prompt,
    Response,
    SamplingParams,
    ToolCall,
    Turn,
)
from reasoner.sampling.base import Completion
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.token_client import TokenClient
from reasoner.trajectories.transcript import Reading, Transcript


@dataclass(frozen=True, slots=True)
class Engine:
    """What all responses of one `sample` call to the problems of one task are made with."""

    client: TokenClient
    params: SamplingParams
    """`max_tokens` is the most tokens of a response: all its turns, and what is appended between them."""
    reading: Reading
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
    opened: tuple[int, ...] | None = None
    """its tokens with what the environment added; None: no response has begun"""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What the responses continue."""
        return self.opened or self.prompt.token_ids

    def open(self, session: EnvironmentSession, interaction: Interaction) -> tuple[int, ...]:
        """The tokens that a response continues.

        Raises:
            EnvironmentFailedError: they are not those of the group's first response.
        """
        token_ids = self.prompt.token_ids
        if session.opening:
            token_ids = interaction.turn_format.prompt(self.prompt.problem, session.opening)
        self.opened = self.opened or token_ids
        if token_ids != self.opened:
            raise _invalid(
                "it opens the same problem in different ways, and the responses of a group continue one prompt: "
                "derive what is chosen at random from the problem"
            )
        return token_ids


async def single_turns(engine: Engine, group: GroupPrompt, n: int) -> list[Response]:
    """`n` responses of one turn to a prompt, of one request.

    Raises:
        SamplerError: the engine failed, or is gone.
    """
    started = time.perf_counter()
    responses = []
    for completion in await engine.client.generate(group.token_ids, n, replace(engine.params, seed=group.seed)):
        transcript = Transcript(group.token_ids, engine.reading)
        transcript.write(completion, time.perf_counter() - started)
        responses.append(transcript.response(_finish(completion), None))
    return responses


@dataclass(slots=True)
class Trajectory:
    """A response with tools or an environment.

    Args:
        sample: its index in its group.
    """

    engine: Engine
    interaction: Interaction
    group: GroupPrompt
    sample: int
    _rewards: list[float | None] = field(default_factory=list)
    """after each turn that the environment answered"""
    _parts: dict[str, Any] = field(default_factory=dict)
    _failure: Failure | None = None

    async def run(self) -> Response:
        """Make the response: until the environment ends it or fails, or the policy has no tokens left.

        Raises:
            SamplerError: the engine failed, or is gone.
        """
        transcript, finish = Transcript(self.group.prompt.token_ids, self.engine.reading), _STOP
        problem = self.group.prompt.problem
        try:
            session = await self.interaction.environments.start(
                problem, f"problem {problem.id}, response {self.sample}"
            )
            try:
                transcript.prompt_ids = self._prompt(session)
                finish = await self._take_turns(session, transcript)
            finally:
                self._parts |= await session.close()
        except EnvironmentFailedError as error:
            self._failure = error.failure
        except DataError as error:  # the tokenizer has no tokens for what the environment says
            self._failure = Failure("environment", "invalid", str(error), 0.0)
        if not transcript.token_ids:
            transcript.never_begun(self.engine.version)
        return transcript.response(finish, self._report())

    def _prompt(self, session: EnvironmentSession) -> tuple[int, ...]:
        """The tokens that the response continues.

        Raises:
            EnvironmentFailedError: they leave no room for it, or differ from those of the group.
        """
        token_ids = self.group.open(session, self.interaction)
        room = self.engine.max_model_len - self.engine.params.max_tokens
        if len(token_ids) > room:
            raise _invalid(
                f"with what it adds the prompt has {len(token_ids)} tokens, and there is room for {room}: raise "
                "sampling.max_prompt_tokens"
            )
        return token_ids

    async def _take_turns(self, session: EnvironmentSession, transcript: Transcript) -> FinishReason:
        """Let the policy and the environment take turns; returns why they ended."""
        engine, format_ = self.engine, self.interaction.turn_format
        most = engine.params.max_tokens
        while True:
            left = most - len(transcript.token_ids)
            seed = derive_seed(self.group.seed, "turn", self.sample, len(self._rewards)) >> 1
            params = replace(engine.params, max_tokens=left, stop=(*engine.params.stop, *format_.stop), seed=seed)
            started = time.perf_counter()
            (completion,) = await engine.client.generate(transcript.context, 1, params)
            finish, seconds = _finish(completion), time.perf_counter() - started
            turn = transcript.write(completion, seconds, self._read if finish == "stop" else None)
            if finish != "stop":
                return finish
            observation = await session.step(turn)
            self._rewards.append(observation.reward)
            self._parts |= observation.parts
            if observation.done:
                return self._end(turn)
            parts = format_.increment(completion.token_ids, observation.messages)
            if len(transcript.token_ids) + sum(map(len, parts)) >= most:
                return "length"
            transcript.append(observation, parts)

    def _read(self, token_ids: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        return self.interaction.environments.check_calls(self.interaction.turn_format.read(token_ids, text))

    def _end(self, turn: Turn) -> FinishReason:
        """Of a response that the environment ends: a policy that still calls tools at its last turn was cut."""
        return "length" if turn.calls and len(self._rewards) >= self.interaction.max_turns else "stop"

    def _report(self) -> EnvironmentReport:
        given = [reward for reward in self._rewards if reward is not None]
        return EnvironmentReport(
            reward=sum(given) if given else None,
            parts=self._parts,
            turn_rewards=tuple(reward or 0.0 for reward in self._rewards) if given else (),
            failure=self._failure,
        )


_STOP: FinishReason = "stop"


def _finish(completion: Completion) -> FinishReason:
    """Why a generation ended.

    Raises:
        SamplerError: the engine aborted it unasked.
    """
    if completion.finish == "abort":
        raise SamplerError("the engine aborted a generation that nobody wanted aborted: it is no sample of the policy")
    return completion.finish


def _invalid(message: str) -> EnvironmentFailedError:
    return EnvironmentFailedError(Failure("environment", "invalid", message, 0.0))
