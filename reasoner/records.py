"""The frozen types that pass between the stages, one per arrow of the pipeline.

    Problem --render--> Prompt --sample--> Group --score--> ScoredGroup --annotate--> Batch --credit, update--> weights

They are plain data: no torch, no numpy, nothing that knows a stage. Each is written to JSON lines or Parquet and read
back without loss (`reasoner.io.serialization`), so that any stage can be run alone on saved data.

What there is for every token is a `TokenArray`, a read-only sequence without a Python object for each number. The
constructors take any sequence of numbers, or an array, and make one of it; `numpy.asarray` of a field is free. On one
of several ranks a response, or a prompt, that another rank sampled has a `RemoteArray` instead, which knows its length:
token ids and log-probabilities are sent to where they are needed (`reasoner.distributed.remote_tokens`).

Axes used throughout: N groups (one per problem), G responses of a group, R = all responses of a batch in group order,
T response tokens. Log-probabilities are natural logarithms of the *sampled* distribution, `log_softmax(logits /
temperature)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from reasoner.io.token_array import TokenArray, here_or_remote

TokenIds = Annotated[Sequence[int], "int32"]
"""a `TokenArray`, as are the others"""
TokenMask = Annotated[Sequence[bool], "bool"]
LogProbs = Annotated[Sequence[float], "float32"]
"""what models compute: float32 has it exactly"""
Routes = Annotated[Sequence[int], "uint16"]
"""The experts that a model chose as it read a sequence, in one piece: token by token from the first on, of every layer
(0 where it has no experts) the numbers of those that it chose."""
UNKNOWN_EXPERT = 65535
"""instead of an expert, for a token that the model did not read"""
TokenWeights = Annotated[Sequence[float], "float64"]
"""sums over optimiser steps"""
FinishReason = Literal["stop", "length", "repetition"]
FailureKind = Literal["timeout", "crash", "error", "invalid"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat, before the chat template."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks; `tool`: the result of a tool call."""
    content: str
    """The text of the message."""
    name: str = ""
    """The tool of a `tool` message."""


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
    part: str = ""
    """The task that it is of, where a run has several (`[[mixture]]`, `[[evaluation.also]]`): it decides which rewards
    score the responses. Empty: not known, or the run has but one."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem as the policy sees it."""

    problem: Problem
    token_ids: tuple[int, ...]
    """The text up to where a response begins (the chat-templated conversation with the generation prompt, or the plain
    text), tokenised once for every engine."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one batch of responses is sampled. There is no top-p, top-k or penalty: they change the sampled
    distribution."""

    temperature: float
    """The T of `log_softmax(logits / T)`; 0 decodes greedily (evaluation only)."""
    max_tokens: int
    """The most tokens of a response, the end token included."""
    stop: tuple[str, ...] = ()
    """Strings that end a response; the text is cut before them, and their tokens stay."""
    seed: int = 0
    """The seed of the random numbers: with the same engine and weights it gives the same responses."""
    end_tokens: tuple[int, ...] = ()
    """Token ids that end a response, besides the model's own end token: those with which the chat template ends a
    turn."""
    stop_repetition: int | None = None
    """How often in a row the same tokens, up to 64 of them, are written before the response is ended as a repetition;
    None: it is never ended for that."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A reward call without a result. A failure is data: it is stored and counted, and never silently becomes 0."""

    source: str
    kind: FailureKind
    """`timeout`: the call was killed at its deadline; `crash`: its worker died; `error`: it raised an exception;
    `invalid`: the score is not a finite number."""
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """A tool as the policy is told of it."""

    name: str
    """The name by which it is called."""
    description: str
    """What it does, for the policy."""
    parameters: Mapping[str, Any]
    """The JSON schema of its arguments, of type `object`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the policy wrote in one of its turns."""

    name: str
    """The name of the tool as it was written; empty where it could not be read."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The arguments by name; JSON values."""
    error: str = ""
    """Why no tool was called: the call is malformed, names no tool, or its arguments do not fit; the policy is told."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a response: what the policy wrote without a break, or what came back to it."""

    role: Literal["assistant", "tool", "user"]
    """`assistant`: the policy; `tool`: the result of a call; `user`: a message of the environment."""
    first: int
    """The position of its first token among those of the response. What the chat template writes around a message
    belongs to the message."""
    end: int
    """The position after its last token."""
    text: str
    """The text as the policy wrote it, without special tokens, or as the environment gave it."""
    calls: tuple[ToolCall, ...] = ()
    """The tool calls of an `assistant` turn, in their order."""
    tool: str = ""
    """The tool whose result a `tool` turn holds."""
    error: str = ""
    """Why the tool has no result: it raised, took too long, or its worker died; the policy is told."""
    seconds: float = 0.0
    """How long generation, or the tool, took."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What comes back to the policy after one of its turns."""

    messages: tuple[Message, ...] = ()
    """What the policy reads next: the result of every call of the turn as a `tool` message, in their order, then what
    the environment says."""
    done: bool = False
    """Whether the response ends here: nothing is sampled after this turn."""
    reward: float | None = None
    """The reward of the turn just made; None: the environment gives none."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that are saved with the response; later ones replace those of the same name."""
    errors: tuple[str, ...] = ()
    """(messages) Why a tool has no result, empty where it has one; the message tells the policy. Environments leave it
    out."""
    seconds: tuple[float, ...] = ()
    """(messages) How long each tool took. Environments leave it out."""


@dataclass(frozen=True, slots=True)
class EnvironmentReport:
    """What an environment says about a response at its end."""

    reward: float | None = None
    """The sum of the rewards that it gave over the turns; None: it gave none."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that are saved with the response."""
    turn_rewards: tuple[float, ...] = ()
    """The reward after each turn of the policy, 0 where it gave none; empty: it gives none."""
    failure: Failure | None = None
    """Why the environment could not go on: the response abstains."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the policy wrote, exactly as it was generated."""

    text: str
    """The decoded text of the policy's last turn, without special tokens and the end token, cut before a stop string.
    It is for reading and scoring and is never tokenised again. It begins with `<think>` (or another mark,
    `reasoner.data.prompts.thinking`) where the chat template opened the thinking, and keeps the marks of thinking where
    these are special tokens."""
    token_ids: TokenIds
    """(T,) The tokens as they were generated, with the end token where it was sampled."""
    policy_mask: TokenMask
    """(T,) True where the policy wrote the token: all of them, unless there are tools or several turns."""
    sampler_logprobs: LogProbs
    """(T,) The sampler's own log-probability of each token under the sampled distribution, nats; 0 where the mask is
    False."""
    finish_reason: FinishReason
    """Why the response ended: `stop`, an end token, a stop string, or its environment; `length`, it was cut at the
    most tokens; `repetition`, it repeated itself."""
    policy_version: int
    """The version of the weights that sampled the response: the number of optimiser steps that made them; the oldest
    where they changed while it was sampled (`version_changes`)."""
    version_changes: tuple[tuple[int, int], ...] = ()
    """Where the weights changed while the response was sampled: position of the first token of newer weights, and
    their version."""
    turns: tuple[Turn, ...] = ()
    """The turns of a response with tools or an environment, which cover all its tokens; empty: one generation without
    either, or the environment failed before anything was sampled."""
    report: EnvironmentReport | None = None
    """What the environment reported; None: there is none."""
    carried_tokens: int = 0
    """How many of its first tokens an earlier step wrote, which ended before the response (`sampling.over_sample`)."""
    discarded_tokens: int = 0
    """Tokens of the policy that were given up before it: the response began anew, because they would have been too old
    (`sampling.max_staleness`), or because its environment did not come back to the same state."""
    routes: Routes = ()
    """The experts that the sampler chose as it read the prompt and the response but its last token
    (`learning.routing_replay`), `UNKNOWN_EXPERT` for tokens that it never read; empty: they are not known. Those of the
    prompt are the same for all responses of a complete group. Reward sources and run folders do not get them."""

    def __post_init__(self) -> None:
        _set(self, "token_ids", here_or_remote(self.token_ids, "int32"))
        _set(self, "policy_mask", TokenArray(self.policy_mask, "bool"))
        _set(self, "sampler_logprobs", here_or_remote(self.sampler_logprobs, "float32"))
        _set(self, "routes", here_or_remote(self.routes, "uint16"))
        lengths = {len(self.token_ids), len(self.policy_mask), len(self.sampler_logprobs)}
        if len(lengths) != 1 or not self.token_ids:
            raise ValueError(
                "a response needs one mask entry and one log-probability per token, and at least one token; got "
                f"{len(self.token_ids)} tokens, {len(self.policy_mask)} mask entries, "
                f"{len(self.sampler_logprobs)} log-probabilities"
            )

    def without_routes(self) -> Response:
        """The same, for a model that is to choose its experts itself."""
        return replace(self, routes=()) if self.routes else self

    @property
    def failure(self) -> Failure | None:
        """Why its environment could not go on, so that it abstains; None: it could, or there is none."""
        return self.report.failure if self.report else None


@dataclass(frozen=True, slots=True)
class Group:
    """All responses to one problem."""

    problem: Problem
    prompt_ids: TokenIds
    responses: tuple[Response, ...]

    def __post_init__(self) -> None:
        _set(self, "prompt_ids", here_or_remote(self.prompt_ids, "int32"))

    def without_routes(self) -> Group:
        """The same, for a model that is to choose its experts itself."""
        return replace(self, responses=tuple(response.without_routes() for response in self.responses))


@dataclass(frozen=True, slots=True)
class PartialResponse:
    """A response that is not complete: what is needed to continue it, in this process or in another."""

    sample: int
    """Its index in its group."""
    token_ids: TokenIds = ()
    """(T,) So far; empty where nothing was sampled. What comes after the last of `turns` is the turn that the policy
    was writing."""
    policy_mask: TokenMask = ()
    """(T,) As in `Response`."""
    sampler_logprobs: LogProbs = ()
    """(T,) As in `Response`."""
    versions: tuple[tuple[int, int], ...] = ()
    """The position of the first token of each version of the weights, and the version."""
    turns: tuple[Turn, ...] = ()
    """The turns that are complete."""
    turn_seconds: float = 0.0
    """How long the turn that the policy was writing took so far."""
    rewards: tuple[float | None, ...] = ()
    """The environment's reward after each turn that it answered."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What it reported so far."""
    discarded_tokens: int = 0
    """As in `Response`."""
    routes: Routes = ()
    """The experts that the sampler chose as it read the prompt and the response, up to the token before the last that
    it sampled."""

    def __post_init__(self) -> None:
        _set(self, "token_ids", TokenArray(self.token_ids, "int32"))
        _set(self, "policy_mask", TokenArray(self.policy_mask, "bool"))
        _set(self, "sampler_logprobs", TokenArray(self.sampler_logprobs, "float32"))
        _set(self, "routes", TokenArray(self.routes, "uint16"))


@dataclass(frozen=True, slots=True)
class PartialGroup:
    """A group of which a response is not complete, or that was complete when its step had enough groups."""

    problem: Problem
    prompt_ids: TokenIds
    samples: tuple[int, ...]
    """The index in the group of each of `responses`."""
    responses: tuple[Response, ...]
    """Those that are complete."""
    partial: tuple[PartialResponse, ...]
    """Those that have begun and are not complete."""

    def __post_init__(self) -> None:
        _set(self, "prompt_ids", TokenArray(self.prompt_ids, "int32"))

    @property
    def version(self) -> int | None:
        """The version of the oldest weights that sampled any of it; None: nothing is sampled."""
        of_partial = [version for partial in self.partial for _, version in partial.versions]
        return min((*of_partial, *(response.policy_version for response in self.responses)), default=None)


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward source returns: a finite value, its parts for the logs, and the reason."""

    value: float
    """Finite, before weighting; 1.0 for a right response."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that are saved with the response, such as the extracted answer or sub-scores."""
    note: str = ""
    """The reason for the value in a few words, for people who read the responses."""


@dataclass(frozen=True, slots=True)
class Component:
    """One reward source's verdict on one response, before weighting."""

    source: str
    weight: float
    value: float | None
    """The score; None: the source does not apply (and adds 0 to the reward), or the call failed (`failure` has the
    reason)."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    failure: Failure | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with the components and the reward of every response."""

    group: Group
    components: tuple[tuple[Component, ...], ...]
    """(G,) The components of each response, in the order of the configured rewards."""
    rewards: tuple[float | None, ...]
    """(G,) The sum of weight * value of each response; None: it abstained and is left out of every statistic."""

    @property
    def informative(self) -> bool:
        """Whether at least two valid responses have different rewards."""
        return len({reward for reward in self.rewards if reward is not None}) > 1


@dataclass(frozen=True, slots=True)
class Mismatched:
    """Every response of a batch, combined with the prompt of the response before it, in the order of the batch."""

    groups: tuple[Group, ...]
    """Groups of one response each."""
    reference_logprobs: tuple[LogProbs, ...]
    """(R)(T) The log-probabilities of their tokens under the reference policy."""

    def __post_init__(self) -> None:
        _set(self, "reference_logprobs", _rows(self.reference_logprobs))


@dataclass(frozen=True, slots=True)
class Batch:
    """The scored groups of one source and step, annotated once with everything that the objective needs besides the
    current policy."""

    groups: tuple[ScoredGroup, ...]
    old_logprobs: tuple[LogProbs, ...] | None = None
    """(R)(T) The log-probabilities under the learner's weights before the first optimiser step on this batch; None:
    there is only one step, at which they equal the current ones."""
    reference_logprobs: tuple[LogProbs, ...] | None = None
    """(R)(T) The log-probabilities under the reference policy; None: no term needs them."""
    teacher_logprobs: tuple[LogProbs, ...] | None = None
    """(R)(T) The log-probabilities under the teacher; None: no term needs them."""
    values: tuple[LogProbs, ...] | None = None
    """(R)(T) The critic's value of the state before each token; None: no term needs it."""
    greedy_rewards: tuple[float | None, ...] | None = None
    """(N) The reward of a greedy response to each problem, None where it abstained; None: no term needs it."""
    mismatched: Mismatched | None = None
    """The mismatched responses for the KL estimate of labelled data (2402.01306); None: no term needs them."""
    temperature: float = 1.0
    """The T of the distribution under which the learner computes log-probabilities: the sampling temperature, 1 for
    offline data."""

    def __post_init__(self) -> None:
        for name in ("old_logprobs", "reference_logprobs", "teacher_logprobs", "values"):
            if (rows := getattr(self, name)) is not None:
                _set(self, name, _rows(rows))

    @property
    def responses(self) -> tuple[Response, ...]:
        """(R,) All responses in group order."""
        return tuple(response for scored in self.groups for response in scored.group.responses)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response as the run folder holds it: a row of `rollouts/step-000010.parquet`."""

    step: int
    problem: Problem
    prompt_ids: TokenIds
    sample: int
    """The index of the response in its group, from 0."""
    response: Response
    components: tuple[Component, ...]
    reward: float | None
    credit: float | None
    """The credit of the response for the first term that reads it; None: it was not trained on, because it belongs to
    an evaluation or was dropped."""
    weights: TokenWeights | None = None
    """(T,) The weight by which the update multiplied each token's log-probability, summed over the optimiser steps of
    the training step; None where `credit` is None."""
    dropped: bool = False
    """Whether the response was sampled for a training step that did not learn from it, because the rewards of its group
    are all equal (`sampling.refills`)."""

    def __post_init__(self) -> None:
        _set(self, "prompt_ids", here_or_remote(self.prompt_ids, "int32"))
        if self.weights is not None:
            _set(self, "weights", TokenArray(self.weights, "float64"))

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
    """The model whose optimiser step it was."""
    source: str
    """`online`, or the data set that the response comes from."""
    problem: Problem
    prompt_ids: TokenIds
    response: Response
    reward: float | None
    outputs: TokenWeights
    """(T,) The model's output for each token: a log-probability of the policy, or a value of the critic."""
    weights: TokenWeights
    """(T,) The weights by which the loss multiplied the outputs: - dL / d output."""

    def __post_init__(self) -> None:
        _set(self, "prompt_ids", here_or_remote(self.prompt_ids, "int32"))
        _set(self, "outputs", TokenArray(self.outputs, "float64"))
        _set(self, "weights", TokenArray(self.weights, "float64"))


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sampler reports after it loaded weights; the pipeline compares it with what the learner published."""

    version: int
    checksum: str
    """The checksum (128-bit XXH3) of the published tensors, computed by the sampler from the tensors that it read."""
    tensors: int
    seconds: float


_set = object.__setattr__  # the records are frozen


def _rows(values: Sequence[Sequence[float]]) -> tuple[LogProbs, ...]:
    return tuple(TokenArray(row, "float32") for row in values)
