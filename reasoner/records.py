"""The frozen types that pass between the stages, one per arrow of the pipeline.

    Problem --render--> Prompt --sample--> Group --score--> ScoredGroup --annotate--> Batch --credit, update--> weights

They are plain data: no torch, no numpy, nothing that knows a stage. Each is written to JSON lines or Parquet and read
back without loss (`reasoner.io.serialization`), so that any stage can be run alone on saved data.

Axes used throughout: N groups (one per problem), G responses of a group, R = all responses of a batch in group order,
T response tokens. Log-probabilities are natural logarithms of the *sampled* distribution, `log_softmax(logits /
temperature)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
FailureKind = Literal["timeout", "crash", "error", "invalid"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat, before the chat template."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    content: str
    """The text of the message."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One task instance: what the model is asked and what the verifiers compare with."""

    id: str
    """Unique within its data source and stable across runs (`gsm8k-test:17`)."""
    messages: tuple[Message, ...]
    """The conversation that the policy continues; with `prompt.format = "plain"` one message, the whole text."""
    answer: str
    """The reference answer, as the data source spells it (for GSM8K: the whole solution that ends in `#### n`); empty
    where the row has none and no reward source of the task compares with it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The row as it was read: all its columns, also under the names of `columns`. JSON values only. Reward sources may
    need more than the answer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem as the policy sees it."""

    problem: Problem
    token_ids: tuple[int, ...]
    """The text up to where a response begins (the chat-templated conversation with the generation prompt, or the plain
    text), tokenised once for every engine."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one batch of responses is drawn. There is no top-p, top-k or penalty: they change the sampled
    distribution."""

    temperature: float
    """0 decodes greedily (evaluation only); otherwise the T of `log_softmax(logits / T)`."""
    max_tokens: int
    """tokens per response, the end token included"""
    stop: tuple[str, ...] = ()
    """strings that end a response; the text is cut before them, their tokens stay"""
    seed: int = 0
    """same seed, same engine, same weights: same responses"""
    end_tokens: tuple[int, ...] = ()
    """token ids that end a response beside the model's own: how the chat template ends a turn"""


@dataclass(frozen=True, slots=True)
class Response:
    """What the policy wrote, exactly as it was generated."""

    text: str
    """decoded without special tokens and the end token, cut before a stop string; for reading and scoring, never
    tokenised again. It begins with `<think>` (or another mark, `reasoner.data.prompts.thinking`) where the chat
    template had opened the thinking, and keeps the marks of thinking where these are special tokens"""
    token_ids: tuple[int, ...]
    """(T,) as generated, the end token included when it was sampled"""
    policy_mask: tuple[bool, ...]
    """(T,) True where the policy wrote the token (all of them without tools or several turns)"""
    sampler_logprobs: tuple[float, ...]
    """(T,) the sampler's own log-probability of each token under the sampled distribution; 0 where the mask is False"""
    finish_reason: FinishReason
    """`stop`: an end token or stop string; `length`: cut at max_tokens"""
    policy_version: int
    """version of the weights that sampled it: the number of optimiser steps behind them"""

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.policy_mask), len(self.sampler_logprobs)}
        if len(lengths) != 1 or not self.token_ids:
            raise ValueError(
                "a response needs one mask entry and one log-probability per token, and at least one token; got "
                f"{len(self.token_ids)} tokens, {len(self.policy_mask)} mask entries, "
                f"{len(self.sampler_logprobs)} log-probabilities"
            )


@dataclass(frozen=True, slots=True)
class Group:
    """All responses to one problem."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward source returns: a finite value, its parts for the logs, and why."""

    value: float
    """Finite, before weighting; 1.0 for a right response."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values worth keeping: the extracted answer, sub-scores"""
    note: str = ""
    """Why, in a few words, for whoever reads the responses."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A reward call that did not deliver. A failure is data: it is stored and counted, never silently 0."""

    source: str
    kind: FailureKind
    """`timeout`: killed at its deadline; `crash`: the worker died; `error`: it raised; `invalid`: not a finite score"""
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Component:
    """One reward source's verdict on one response, before weighting."""

    source: str
    weight: float
    value: float | None
    """None: not applicable (contributes 0), or failed (then `failure` says how)"""
    parts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    failure: Failure | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with every response's components and total."""

    group: Group
    components: tuple[tuple[Component, ...], ...]
    """(G,) per response, in the order of the configured rewards"""
    rewards: tuple[float | None, ...]
    """(G,) sum of weight * value; None: abstained, left out of every statistic"""

    @property
    def informative(self) -> bool:
        """Whether at least two valid responses have different rewards."""
        return len({reward for reward in self.rewards if reward is not None}) > 1


@dataclass(frozen=True, slots=True)
class Mismatched:
    """Every response of a batch put to the prompt of the response before it, in the order of the batch."""

    groups: tuple[Group, ...]
    """one response each"""
    reference_logprobs: tuple[tuple[float, ...], ...]
    """(R)(T) under the reference policy"""


@dataclass(frozen=True, slots=True)
class Batch:
    """The scored groups of one source and step with what the objective needs beside the current policy (annotated
    once)."""

    groups: tuple[ScoredGroup, ...]
    old_logprobs: tuple[tuple[float, ...], ...] | None = None
    """(R)(T) under the learner's weights when the batch arrived; None: equal to the current ones at the first step"""
    reference_logprobs: tuple[tuple[float, ...], ...] | None = None
    """(R)(T) under the reference policy; None: no term asks for it"""
    teacher_logprobs: tuple[tuple[float, ...], ...] | None = None
    """(R)(T) under the teacher; None: no term asks for it"""
    values: tuple[tuple[float, ...], ...] | None = None
    """(R)(T) the critic's value of the state before each token; None: no term asks for it"""
    greedy_rewards: tuple[float | None, ...] | None = None
    """(N) reward of a greedy response to each problem, None where it abstained; None: no term asks for it"""
    mismatched: Mismatched | None = None
    """for the KL estimate of labelled responses (2402.01306); None: no term asks for it"""
    temperature: float = 1.0
    """T of the distribution that the responses are weighed under: the sampling temperature, 1 for offline data"""

    @property
    def responses(self) -> tuple[Response, ...]:
        """(R,) all responses in group order."""
        return tuple(response for scored in self.groups for response in scored.group.responses)

    @property
    def teacher_kl(self) -> float | None:
        """Mean of the old policy's log-probability - the teacher's over the policy's tokens, nats; None: no teacher."""
        if self.teacher_logprobs is None or self.old_logprobs is None:
            return None
        masks = (response.policy_mask for response in self.responses)
        gaps = [
            old - teacher
            for mask, olds, teachers in zip(masks, self.old_logprobs, self.teacher_logprobs, strict=True)
            for here, old, teacher in zip(mask, olds, teachers, strict=True)
            if here
        ]
        return sum(gaps) / max(len(gaps), 1)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response as it is kept in the run folder: a row of `rollouts/step-000010.parquet`."""

    step: int
    problem: Problem
    prompt_ids: tuple[int, ...]
    sample: int
    """index of the response in its group, from 0"""
    response: Response
    components: tuple[Component, ...]
    reward: float | None
    credit: float | None
    """None where it was not trained on: in evaluation rollouts, and where it was dropped"""
    weights: tuple[float, ...] | None = None
    """(T,) weight of each token in the update: what its log-probability was multiplied by, over all optimiser steps of
    the training step; None as `credit`"""
    dropped: bool = False
    """sampled for a training step that did not learn from it: the rewards of its group are all equal
    (`sampling.refills`)"""

    @property
    def training(self) -> bool:
        """Whether it was sampled for a training step, not in an evaluation."""
        return self.dropped or self.credit is not None


@dataclass(frozen=True, slots=True)
class NonFiniteResponse:
    """A response of an optimiser step whose loss or gradient was not finite: a row of `not-finite/step-000010.parquet`.

    Those with a value that is not finite; where every value is finite, all responses of the step.
    """

    model: Literal["policy", "critic"]
    """whose step it was"""
    source: str
    """`online`, or the data set of the response"""
    problem: Problem
    prompt_ids: tuple[int, ...]
    response: Response
    reward: float | None
    outputs: tuple[float, ...]
    """(T,) what the model gave each token: log-probability of the policy, value of the critic"""
    weights: tuple[float, ...]
    """(T,) what the loss multiplied them with: - dL / d output"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sampler says that it loaded; the pipeline compares it with what the learner published."""

    version: int
    checksum: str
    """SHA-256 over the published tensors, computed by whoever holds the receipt from what it read"""
    tensors: int
    seconds: float
