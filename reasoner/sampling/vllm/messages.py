"""What the vLLM engine and its host process say to each other, over a local socket.

Every request has one reply, `Done` or `RequestFailed`, except `Submit` and `Abort`. What was submitted is answered by
`Completed`, at any time; a failure of what runs, or of these two, is a `RequestFailed` that ends all that runs.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from reasoner.errors import ReasonerError
from reasoner.sampling.base import Completed, TokenRequest

SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
"""what tells models apart, as their configurations name it"""
BUFFER_BYTES = 2**28
"""of the GPU through which a learner's weights get to an engine on the same one (`buckets.py`)"""
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""for which vLLM makes room; an adapter's rank may be smaller"""
MERGED_ADVICE = (
    "set lora.handover = 'merged', and leave lora.quantization and sampling.quantization out, which need the adapter "
    "handed over alone"
)
"""what to do where a sampler cannot take an adapter alone"""


@dataclass(frozen=True, slots=True)
class StartEngine:
    """First message to the host: the engine to start."""

    model: str
    """folder in Hugging Face format"""
    dtype: str
    device: str
    """`cpu` or `cuda`; the host refuses when vLLM was built for the other"""
    max_model_len: int
    """tokens of prompt and response"""
    max_sequences: int | None
    """Responses that are sampled at the same time; None: as many as vLLM chooses by the GPU's memory."""
    memory_share: float
    """share of the GPU's memory (cuda)"""
    kv_cache_gib: float
    """GiB (cpu)"""
    trust_remote_code: bool
    adapter_rank: int = 0
    """`Load` brings adapters of this rank for the model, which itself stays; 0: it brings whole weights"""
    quantization: str | None = None
    """number format of the linear layers, rounded at the start; not where `Load` brings whole weights. None: `dtype`"""
    tensor_parallel: int = 1
    """processes that share the model, each with a device of its own"""
    prefix_caching: bool = True
    """the prompt of a group is read once; not with recurrent layers, with which some of vLLM's models end with an
    IndexError"""
    devices: str = ""
    """CUDA's numbers of those, with commas; empty: as this process sees them"""
    returns_routes: bool = False
    """say with every completion which experts were chosen"""

    @property
    def discards_weights(self) -> bool:
        """Whether sleeping gives the weights up: what comes next brings all of them, so they need not be kept in host
        memory. An adapter does not bring them, and on a CPU nothing sleeps."""
        return self.device == "cuda" and not self.adapter_rank


@dataclass(frozen=True, slots=True)
class EngineReady:
    """What vLLM says of itself when it has started."""

    description: str
    """for the log"""
    max_sequences: int
    """responses that are sampled at once"""


@dataclass(frozen=True, slots=True)
class Begin:
    """Seed the noise of what is submitted from now on."""

    seed: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Continue token ids, beside what runs already. No `Done` follows: every request is answered by a `Completed`."""

    requests: tuple[TokenRequest, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """End these requests: each is answered by a `Completed` with what there is of it. No `Done` follows."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PauseSampling:
    """Sample nothing until `ResumeSampling`."""


@dataclass(frozen=True, slots=True)
class ResumeSampling:
    """Go on with what runs."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Say the log-probabilities of given responses at temperature 1."""

    rows: tuple[tuple[Sequence[int], Sequence[int]], ...]
    """(R,) token ids of the prompt and of the response"""


@dataclass(frozen=True, slots=True)
class Load:
    """Take the weights, or the adapter, in `folder`."""

    folder: str
    version: int


@dataclass(frozen=True, slots=True)
class TakeBuckets:
    """Take the weights that come over a local socket and lie in a buffer on the GPU (`buckets.py`)."""

    address: str
    """of the socket"""
    version: int | None
    """None: a trial, whose weights are not loaded; the answer then may also say why it failed"""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Give back memory; with `StartEngine.discards_weights` also the weights."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Take it again; that of the cache comes with `Load` where the weights were given up."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the host process."""


Request = (
    StartEngine
    | Begin
    | Submit
    | Abort
    | PauseSampling
    | ResumeSampling
    | ScoreRequest
    | Load
    | TakeBuckets
    | Sleep
    | Wake
    | Close
)


@dataclass(frozen=True, slots=True)
class Working:
    """The requests that run have got further since the last reply."""


Value = EngineReady | tuple[str, int] | str | list[list[float]] | None


@dataclass(frozen=True, slots=True)
class Done:
    """A request is complete; what it returns, if anything."""

    value: Value = None
    """of `Load`: checksum and number of tensors; of `StartEngine`: the description; of `ScoreRequest`: (R)(T)
    log-probabilities"""


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request failed."""

    message: str
    """of an error that a person can act on, else a traceback"""
    is_traceback: bool


Reply = Completed | Working | Done | RequestFailed


def vllm_message(error: Exception) -> str:
    """The reason in a message of vLLM, which pydantic surrounds with the values that it was given and a link."""
    if not isinstance(error, ValueError):
        return f"{type(error).__name__}: {error}"
    match = re.search(r"^\s*Value error, (.*?)(?: \[type=|$)", str(error), re.MULTILINE)
    return match[1] if match else str(error)


def failure(error: Exception) -> RequestFailed:
    """What a person can act on is told as it is, anything else with its traceback."""
    if isinstance(error, ReasonerError):
        return RequestFailed(str(error), is_traceback=False)
    return RequestFailed(traceback.format_exc(), is_traceback=True)
