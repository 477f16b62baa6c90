"""What the pipeline asks of a sampler, and what a sampler asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from reasoner.io.token_array import TokenArray
from reasoner.records import Group, LogProbs, PartialGroup, Problem, Prompt, Receipt, Routes, SamplingParams, TokenIds

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
"""`(responses done, responses in all)`"""
Finish = Literal["stop", "length", "abort", "repetition"]
"""Why a generation ended: an end token or a stop string; the most tokens; `TokenService.abort`; it repeated itself."""
ParamsByTask = Mapping[str, SamplingParams]
"""How the problems of each task are sampled (`Problem.part`); all have the same seed."""


@dataclass(frozen=True, slots=True)
class Oldest:
    """The versions of the oldest weights whose tokens two steps may learn from (`sampling.max_staleness`)."""

    now: int
    """This step. A group with older tokens begins anew."""
    next: int
    """The next step: a group with older tokens is completed now."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Token ids that an engine is to continue."""

    id: int
    """Unique among the requests that have not been received; chosen by the caller."""
    token_ids: TokenIds
    """Everything so far: the prompt, and what was generated and appended since."""
    n: int
    """How many continuations are sampled."""
    params: SamplingParams
    """`max_tokens` is the most tokens of one continuation. The model's own end tokens end it too, whatever
    `end_tokens` says. `seed` is that of this request's own noise, below 2^62, where the engine can seed single requests
    (vLLM on CUDA: continuation k has `seed + k`); elsewhere all requests share the noise that `TokenService.begin`
    seeds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenArray(self.token_ids, "int32"))


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation."""

    token_ids: TokenIds
    """(T,) As they were generated, with the end token or the tokens of the stop string that ended it. Empty only where
    it was aborted before its first token."""
    logprobs: LogProbs
    """(T,) The log-probability of each token under the sampled distribution, nats; a number always."""
    finish: Finish
    version: int
    """The version of the weights that sampled its first token."""
    version_changes: tuple[tuple[int, int], ...] = ()
    """Where the weights changed while it was sampled: the position of the first token of newer weights, and their
    version."""
    routes: Routes = ()
    """The experts that were chosen for the tokens of the request and of the continuation, up to the last but one; empty
    where the engine was not opened to say them, or the continuation has no token."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenArray(self.token_ids, "int32"))
        object.__setattr__(self, "logprobs", TokenArray(self.logprobs, "float32"))
        object.__setattr__(self, "routes", TokenArray(self.routes, "uint16"))


@dataclass(frozen=True, slots=True)
class Completed:
    """All continuations of one request."""

    id: int
    completions: tuple[Completion, ...]


class TokenService(Protocol):
    """Continues token ids, and holds one version of the policy's weights.

    One thread calls it, except that `submit` and `abort` may also be called while another thread waits in `receive`.
    Every call raises `SamplerError` when the engine failed, is gone, or made no progress for too long; nothing can be
    asked of it afterwards but `close`.
    """

    name: str
    """`vllm`, `hf` or `servers`, as printed at the start."""
    description: str
    """What was chosen, for the log: versions, device, number format."""
    tokenizer: Any
    """The model's own, to read what was generated."""
    end_tokens: tuple[int, ...]
    """The ids with which the model itself ends a response."""
    max_model_len: int
    """The most tokens of a request and its continuation together."""
    independent_sequences: int
    """The most continuations that run at the same time, where each has noise of its own: whichever engine with these
    weights is asked for one, it is the same, but for rounding. 0: the noise depends on what else is sampled, and when;
    or the engine's own queue is shared already."""

    @property
    def version(self) -> int:
        """The version of the weights that it holds; -1: none that are known, `load` comes first."""
        ...

    def begin(self, seed: int) -> None:
        """Seed the noise of what is submitted from now on; no request is running.

        With the same engine, weights and seed, the same requests in the same calls of `submit` give the same
        completions, as long as nothing is submitted while others run. Servers give others each time.
        """
        ...

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        """Have the requests continued, beside those that run already; one call is one batch."""
        ...

    def receive(self, timeout_s: float | None = None) -> Completed | None:
        """The next request that is complete; None: none is after `timeout_s` seconds, or nothing can be, because no
        request runs or the service is paused."""
        ...

    def abort(self, ids: Collection[int]) -> None:
        """End these requests now. They are received as all others, with what was generated so far; ids of requests
        that are complete already are ignored."""
        ...

    def pause(self) -> None:
        """Sample nothing until `resume`; what runs is kept. Between the two, `load` changes the weights under it."""
        ...

    def resume(self) -> None:
        """Go on with what runs, under the weights that it holds now."""
        ...

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        """As `Sampler.score`; no request is running."""
        ...

    def load(self, folder: Path, version: int) -> Receipt:
        """As `Sampler.load`; no request is running, or the service is paused."""
        ...

    def sleep(self) -> None:
        """As `Sampler.sleep`; no request is running."""
        ...

    def wake(self) -> None:
        """As `Sampler.wake`."""
        ...

    def close(self) -> None:
        """As `Sampler.close`."""
        ...

    def __enter__(self) -> TokenService: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class DeviceReceiver(Protocol):
    """What can take weights from the learner's GPU without a file: an engine on the same one."""

    def device_obstacle(self) -> str:
        """Why it takes them as files all the same, as the end of a sentence; empty: it was tried, and works."""
        ...

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        """As `Sampler.load`, with the weights themselves; also returns the checksum of what was sent.

        Args:
            weights: they are read to their end, whatever happens.
        """
        ...


@runtime_checkable
class QueueSampler(Protocol):
    """A sampler over one of several engines that may take prompts from each other."""

    @property
    def independent_sequences(self) -> int:
        """As of `TokenService`; 0: which engine samples a prompt must not depend on the clock."""
        ...

    def sample_queue(
        self,
        prompts: Sequence[Prompt],
        take: Callable[[], int | None],
        most: int,
        n: int,
        params: SamplingParams | ParamsByTask,
    ) -> Iterator[Group]:
        """As `Sampler.sample`, of those of the prompts that this engine takes.

        Args:
            prompts: those of all engines.
            take: the index of the next prompt for this engine; None: there is none.
            most: groups that are sampled at the same time.
        """
        ...


@runtime_checkable
class WeightPreparer(Protocol):
    """An engine to which weights can be brought before it loads them."""

    def prepare(self, folder: Path, version: int) -> None:
        """Do what the next `TokenService.load` of these weights can have done already, while the engine samples.
        Another thread may wait in `receive` meanwhile, or call `begin`."""
        ...


class Sampler(Protocol):
    """Draws groups of responses and holds one version of the policy's weights.

    A sampler is a context manager: leaving it ends every process that it started.
    """

    name: str
    """`vllm`, `hf` or `servers`, as printed at the start"""
    description: str
    """what was chosen, for the log: versions, device, number format"""

    @property
    def version(self) -> int:
        """The version of the weights that it holds; -1: those of nobody, `load` comes first."""
        ...

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        """Yield the group of each prompt as soon as its n responses are complete, in the order of completion.

        The log-probabilities are those of the sampled distribution, temperature included. Problems of several tasks
        are sampled together, also where their limits differ.
        """
        ...

    def sample_some(
        self,
        carried: Sequence[Prompt],
        new: Sequence[Prompt],
        n: int,
        params: SamplingParams | ParamsByTask,
        wanted: int,
        oldest: Oldest,
    ) -> Iterator[Group]:
        """As `sample`, until `wanted` groups are complete, among them those that would be too old at the next step;
        what there is of the others is kept for the next call, in which their prompts are among `carried`.

        Args:
            carried: prompts of groups that are kept, at most `wanted`; those that are not are left out.
            new: prompts of groups that begin.
        """
        ...

    @property
    def kept(self) -> tuple[PartialGroup, ...]:
        """What this rank's sampler keeps for the next `sample_some`."""
        ...

    def keep(self, groups: Sequence[PartialGroup]) -> None:
        """Take what a sampler kept before the run was interrupted."""
        ...

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        """(R)(T) log-probability of every response token at temperature 1, by each engine that samples.

        An engine is named as messages name it: by the address of a server, else by its rank, or by nothing where there
        is one.
        """
        ...

    def load(self, folder: Path, version: int) -> Receipt:
        """Take the weights in `folder` (`reasoner.models.tensor_files`) and forget everything computed with the old
        ones; nothing is being sampled."""
        ...

    def change(self, folder: Path, version: int) -> Receipt:
        """As `load`, while another thread may be sampling: what is being written goes on with the new weights, and
        every response says which of its tokens are theirs (`Response.version_changes`)."""
        ...

    def sleep(self) -> None:
        """Give back what memory it can until the next `wake` (a no-op on a CPU)."""
        ...

    def wake(self) -> None:
        """Be ready to load weights and sample."""
        ...

    def close(self) -> None:
        """End every process and free all memory; safe to call twice."""
        ...

    def __enter__(self) -> Sampler: ...

    def __exit__(self, *exc: object) -> None: ...


def params_of(params: SamplingParams | ParamsByTask, problem: Problem) -> SamplingParams:
    """How responses to a problem are sampled."""
    return params if isinstance(params, SamplingParams) else params[problem.part]


def track_progress(groups: Iterable[Group], total: int, progress: Progress, done: int = 0) -> Iterator[Group]:
    """The groups as they pass, with `progress` told how many of `total` responses there are so far, `done` before."""
    progress(done, total)
    for group in groups:
        done += len(group.responses)
        progress(done, total)
        yield group
