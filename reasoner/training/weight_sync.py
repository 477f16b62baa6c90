"""Learner to sampler: the weights go over with a receipt, and their effect is measured.

Two checks, because with a sampler that silently keeps stale weights nothing crashes and the wrong policy is trained:

1. The sampler computes version, checksum and number of tensors from what it read; they must be the learner's.
2. The learner re-scores responses that the sampler drew. u = l_learner - l_sampler must be rounding only:
   mean |u|, max |u|, and k3 = mean(e^u - 1 - u), an estimate of KL(sampler || learner).
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import HandoverError
from reasoner.models.tensor_files import count_weights, read_tensors, write_weights
from reasoner.processes.machine import MEMORY_FOLDER, why_not_in_memory
from reasoner.sampling.base import DeviceReceiver

if TYPE_CHECKING:
    from torch import Tensor

    from reasoner.distributed.sharding import LogprobModel
    from reasoner.records import Group, Receipt

__all__ = ["Gap", "Publisher", "SavedModel", "check_gap", "gap_limit", "gap_of", "hand_over", "verify_gap"]

_LIMITS = {"float32": 1e-3, "bfloat16": 0.1}
_QUANTIZED_LIMIT = 0.3
"""where learner and sampler round their weights differently; chosen, not derived. Measured of SmolLM2-135M alone, in
bfloat16 against itself: 0.48 nats with NF4, which is above this, and 0.11 with weights in fp8. The weights of larger
models are known to lose less by rounding; what their gap is was not measured"""
_LARGEST = 700.0
"""nats of a gap above which e^u counts as infinite"""


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the learner's log-probabilities are from the sampler's, over the tokens that the policy wrote."""

    mean: float
    """mean of |l_learner - l_sampler| per token, nats"""
    max: float
    """largest of them"""
    k3: float
    """mean of e^u - 1 - u"""
    tokens: int

    @classmethod
    def between(cls, learner_S: ArrayLike, sampler_S: ArrayLike) -> Gap:
        """The gap over at least one token, from the two log-probabilities of each."""
        # a token that one side holds impossible gives an infinite gap, and where both do a gap that is no number
        with np.errstate(over="ignore", invalid="ignore"):
            u_S = np.subtract(learner_S, sampler_S, dtype=np.float64)
            # e^u itself is too large from u = 710 on, and inf - inf would be no number
            bounded_S = np.minimum(u_S, _LARGEST)
            k3_S = np.where(u_S > _LARGEST, np.inf, np.expm1(bounded_S) - bounded_S)
            return cls(
                mean=sum_in_order(np.abs(u_S)) / len(u_S),
                max=float(np.abs(u_S).max()),
                k3=sum_in_order(k3_S) / len(u_S),
                tokens=len(u_S),
            )

    def __add__(self, other: Gap) -> Gap:
        """The gap over both sets of tokens."""
        tokens = self.tokens + other.tokens
        return Gap(
            mean=(self.mean * self.tokens + other.mean * other.tokens) / tokens,
            max=max(self.max, other.max),
            k3=(self.k3 * self.tokens + other.k3 * other.tokens) / tokens,
            tokens=tokens,
        )


class WeightReceiver(Protocol):
    """What takes weights: a sampler."""

    @property
    def version(self) -> int:
        """As of `Sampler`."""
        ...

    def load(self, folder: Path, version: int) -> Receipt:
        """As of `Sampler`."""
        ...


class Publisher(Protocol):
    """What has weights: a learner, or a saved model."""

    @property
    def version(self) -> int:
        """Of its weights."""
        ...

    def publish(self, folder: Path) -> str:
        """As of `Learner`."""
        ...


@runtime_checkable
class DevicePublisher(Protocol):
    """What can publish weights from a GPU without a file: a learner."""

    @property
    def version(self) -> int:
        """Of its weights."""
        ...

    def device_weights(self) -> Iterator[tuple[str, Tensor]] | None:
        """What `publish` writes, a weight at a time, in memory of this process's GPU or on the way to it; None: the
        learner is not on a GPU. All ranks read it, each to its end."""
        ...


@dataclass(frozen=True, slots=True)
class SavedModel:
    """The weights of a model as they are on disk: version 0."""

    folder: Path
    dtype: str
    trust_remote_code: bool
    version: int = 0

    def publish(self, folder: Path) -> str:
        """As of `Learner`."""
        import torch

        from reasoner.models.loading import check_weights

        names, dtype = check_weights(self.folder, self.trust_remote_code).names, getattr(torch, self.dtype)
        tensors = read_tensors(self.folder, names.written)
        return write_weights(
            folder, ((name, value if name in names.buffers else value.to(dtype)) for name, value in tensors)
        )


def hand_over(
    learner: Publisher,
    sampler: WeightReceiver,
    ranks: Ranks = ALONE,
    parent: str | None = None,
    say: Callable[[str], None] = print,
) -> Receipt:
    """Publish the learner's weights, load them into the sampler, and compare its receipt.

    A learner and an engine on the same GPU hand them over there, through a buffer that both map (CUDA IPC), if that
    works, which is tried at the first hand-over. Otherwise the weights are written to memory (/dev/shm) where they fit,
    else to the folder for temporary files, and removed after loading. With several ranks every node has them once, and
    the samplers of its ranks load from there.

    Args:
        parent: the folder to write into (`sampling.weights_folder`); None: as above.
        say: told how the weights go, where that is not through memory.

    Raises:
        HandoverError: the sampler read something else than was published, or reports another version, or the weights
            cannot be written.
    """
    if parent is not None:
        return _hand_over_on_disk(Path(parent), "sampling.weights_folder", learner, sampler, ranks)
    if (receipt := _hand_over_on_device(learner, sampler, ranks, say)) is not None:
        return receipt
    why = next(filter(None, ranks.gather(why_not_in_memory())), "")
    if not why:
        try:
            return _hand_over_through(MEMORY_FOLDER, learner, sampler, ranks)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            why = f"they do not fit into {MEMORY_FOLDER} (a container: start it with a larger --shm-size)"
    say(f"the weights go to the sampler through {tempfile.gettempdir()}, which is slower than memory: {why}")
    return _hand_over_on_disk(Path(tempfile.gettempdir()), "the folder for temporary files", learner, sampler, ranks)


def _hand_over_on_device(
    learner: Publisher, sampler: WeightReceiver, ranks: Ranks, say: Callable[[str], None]
) -> Receipt | None:
    """The receipt of weights that stayed on the GPU; None: they do not go that way."""
    if not isinstance(learner, DevicePublisher) or (weights := learner.device_weights()) is None:
        return None
    why = sampler.device_obstacle() if isinstance(sampler, DeviceReceiver) else "the sampler takes files alone"
    why = next(filter(None, ranks.gather(why)), "")
    if why:
        say(f"the weights go to the sampler as files: {why}")
        return None
    assert isinstance(sampler, DeviceReceiver)
    say("the weights go to the sampler on the GPU (CUDA IPC), which was tried")
    version = learner.version
    receipt, sent = sampler.load_on_device(weights, version)
    _compare("version", version, receipt.version)
    _compare("checksum", sent, receipt.checksum)
    _compare("version of the sampler", version, sampler.version)
    return receipt


def _hand_over_on_disk(parent: Path, what: str, learner: Publisher, sampler: WeightReceiver, ranks: Ranks) -> Receipt:
    try:
        return _hand_over_through(parent, learner, sampler, ranks)
    except OSError as error:
        raise HandoverError(
            f"the weights cannot be written to {what} = {str(parent)!r}: {error.strerror or error}"
        ) from error


def _hand_over_through(parent: Path, learner: Publisher, sampler: WeightReceiver, ranks: Ranks) -> Receipt:
    with ranks.node_folder("weights", parent) as folder:
        version = learner.version
        checksum = learner.publish(folder)
        tensors = count_weights(folder)
        receipt = sampler.load(folder, version)
    _compare("version", version, receipt.version)
    _compare("checksum", checksum, receipt.checksum)
    _compare("number of tensors", tensors, receipt.tensors)
    _compare("version of the sampler", version, sampler.version)
    return receipt


def _compare(what: str, published: object, loaded: object) -> None:
    if published != loaded:
        raise HandoverError(
            f"the sampler did not take the published weights: {what} is {loaded!r}, published was {published!r}. "
            "Its responses would come from other weights than those that are trained, so the run stops; see the "
            "sampler's log for why they were not loaded."
        )


def check_gap(learner: LogprobModel, groups: Sequence[Group], temperature: float) -> Gap:
    """Score the groups again with the learner and compare with what the sampler reported.

    Args:
        temperature: the T that the groups were sampled with.

    Raises:
        HandoverError: the groups hold no token of the policy.
    """
    return gap_of(learner.logprobs(groups, temperature), groups)


def gap_of(scored: Sequence[Sequence[float]], groups: Sequence[Group]) -> Gap:
    """The gap between these (R)(T) log-probabilities and what the sampler reported.

    Raises:
        HandoverError: the groups hold no token of the policy.
    """
    responses = [response for group in groups for response in group.responses]
    masks = [np.asarray(response.policy_mask) for response in responses]
    if not any(mask.any() for mask in masks):
        raise HandoverError(
            "the hand-over cannot be checked: the groups hold no token that the policy wrote; pass sampled groups"
        )
    learner = [np.asarray(logprobs)[mask] for logprobs, mask in zip(scored, masks, strict=True)]
    sampler = [np.asarray(each.sampler_logprobs)[mask] for each, mask in zip(responses, masks, strict=True)]
    return Gap.between(np.concatenate(learner), np.concatenate(sampler))


def sum_in_order(numbers: ArrayLike) -> float:
    """The sum in float64, one number after the other: `numpy.sum` adds in another order on another machine.

    >>> sum_in_order([0.1, 0.2, 0.3]) == 0.1 + 0.2 + 0.3, sum_in_order([])
    (True, 0.0)
    """
    sums = np.cumsum(numbers, dtype=np.float64)
    return float(sums[-1]) if len(sums) else 0.0


def gap_limit(dtype: Literal["float32", "bfloat16"], configured: float | None, *, quantized: bool = False) -> float:
    """The mean gap above which a run stops: as configured, or 1e-3 in float32 and 0.1 in bfloat16.

    Args:
        quantized: whether learner or sampler holds weights of fewer bits: rounding them is no error of the hand-over.
    """
    if configured is not None:
        return configured
    return _QUANTIZED_LIMIT if quantized else _LIMITS[dtype]


def verify_gap(gap: Gap, limit: float) -> None:
    """Stop when the gap is more than rounding.

    Raises:
        HandoverError: the mean is above `limit` or not a number.
    """
    if gap.mean <= limit:
        return
    raise HandoverError(
        f"the sampler's log-probabilities differ from the learner's by {gap.mean:.2g} nats per token on average "
        f"(max {gap.max:.2g}, k3 {gap.k3:.2g}, {gap.tokens} tokens); the limit is {limit:.2g} (handover.max_gap). "
        "Stale or wrong weights in the sampler look exactly like this: a parameter family that its load does not "
        "refresh (tied output layer, quantised or packed copies), a prefix cache from older weights, another "
        "temperature or number format on one side. Weights that are quantised on one side (lora.quantization, "
        "sampling.quantization) differ as well, those of small models most. Compare the gap before any hand-over with "
        "the gap after one: if only the second is large, the load is at fault; sampling.engine = 'hf' shows whether "
        "vLLM is (not with quantised weights). Where weights are quantised and the gap is as large before a hand-over, "
        "it is their rounding: take a larger model, leave the quantisation out, or raise handover.max_gap and accept "
        "that the importance correction truncates or masks more."
    )
