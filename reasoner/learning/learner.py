"""The learner: an algorithm-blind accumulator of weighted log-likelihood.

    grad L = - sum_{i,t} w[i,t] * grad l[i,t] - sum_{i,t} v[i,t] * grad H[i,t]

It knows nothing of rewards, presets or ratios. It is given groups and a function from log-probabilities to weights; the
objective (`reasoner.gro`) decides. Axes: R responses in group order, T tokens padded to the longest response of a call.
A response is named by its row, its index in the batch (`distributed.sharding`), from here to the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from reasoner.distributed.sharding import Selection
from reasoner.gro.weights import Weights
from reasoner.learning.batching.packing import MicroBatch
from reasoner.records import Group

if TYPE_CHECKING:
    from reasoner.learning.batching.weighing import WeightedLoss

WeightFunction = Callable[[Sequence[int], Tensor, Tensor | None], Weights]
"""`(rows, outputs_RT, entropies_RT) -> weights` for the responses with these rows of the batch, in the order in which
they were packed. The outputs are log-probabilities, or a critic's values; the entropies are those of the positions'
distributions, in nats, None where they are not computed. Called once per micro-batch. All tensors are float32 (float64
for float64 models) on the learner's device, right-padded to the longest response of the call; outputs and entropies
carry no gradient and are 0 at padding. A token that teaches nothing has the weight 0, whoever wrote it; weights of the
entropy are ignored where the policy mask is False."""


@dataclass(frozen=True, slots=True)
class Accumulated:
    """The result of one `accumulate`."""

    sequences: int
    """Packed sequences that went through the model."""
    tokens: int
    """Tokens in them; a shared prompt counts once."""
    response_tokens: int
    responses: int
    loss: float
    """The loss, - sum of w * l - sum of v * H over all responses, and that of routers; of a critic - sum of w * V. Only
    its gradient has a meaning: the value depends on the anchor of the weights and is for the logs."""
    entropy: float = 0.0
    """Sum of H over the policy's tokens, nats; 0 where entropies were not computed."""
    balance: float = 0.0
    """Sum over the responses of how evenly routers spread them over the experts; 0 where that was not computed."""
    rerouted: float = 0.0
    """Sum over the policy's tokens with replayed experts of the share of layers in which routers would have chosen
    others."""
    replayed: int = 0
    """The policy's tokens whose experts were replayed."""

    def __add__(self, other: Accumulated) -> Accumulated:
        """The sum over two ranks that each had a share of the same batch."""
        return Accumulated(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(cls, batches: Sequence[MicroBatch], weighed: Sequence[WeightedLoss]) -> Accumulated:
        """The counts of micro-batches that went through the model, and the sums of their losses."""
        return cls(
            sequences=sum(len(batch.sequences) for batch in batches),
            tokens=sum(batch.tokens for batch in batches),
            response_tokens=sum(len(response) for batch in batches for response in batch.responses),
            responses=sum(len(batch.rows) for batch in batches),
            loss=sum((float(part.loss) for part in weighed), 0.0),
            entropy=sum((part.entropy for part in weighed), 0.0),
            balance=sum((part.balance for part in weighed), 0.0),
            rerouted=sum((part.rerouted for part in weighed), 0.0),
            replayed=sum(part.replayed for part in weighed),
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one `step`."""

    applied: bool
    """Whether the weights changed; False: the gradient was not finite, or nothing had been accumulated."""
    reason: str
    """Why the step was not applied; empty where it was."""
    grad_norm: float
    """The norm of the gradient before clipping."""
    learning_rate: float
    version: int
    """The number of optimiser steps that made the current weights."""
    finite: bool = True
    """Whether loss and gradient were finite; False: the gradient was dropped."""


class Learner(Protocol):
    """Holds the trained policy and its optimiser."""

    @property
    def description(self) -> str:
        """What was chosen, for the log: device, number format, attention, packing."""
        ...

    @property
    def version(self) -> int:
        """Optimiser steps behind the current weights."""
        ...

    def logprobs(self, groups: Sequence[Group], temperature: float) -> Sequence[Sequence[float]]:
        """(R)(T) log-probability of every response token, `log_softmax(logits / temperature)`, without gradient."""
        ...

    def accumulate(
        self,
        groups: Sequence[Group],
        weights: WeightFunction,
        temperature: float,
        *,
        selection: Selection | None = None,
        entropy: bool = False,
    ) -> Accumulated:
        """Add the gradient of `- sum w * l - sum v * H` over the responses selected, in packed micro-batches.

        Args:
            groups: all groups of the batch.
            weights: gives w and v of a micro-batch.
            temperature: the T of `softmax(logits / T)`, for l and for H, the entropy of a position's distribution.
            selection: which of the batch's R responses go through the model, and on which rank: those of one unit are
                in one micro-batch whatever the token budget. None: all of them, each a unit of its own.
            entropy: compute H and give it to `weights`; otherwise their `entropy_RT` must be None.
        """
        ...

    def step(self) -> StepResult:
        """Clip, update, zero the gradient.

        Where the loss or the gradient is not finite, weights and moments stay as they are and the result says so.
        """
        ...

    def publish(self, folder: Path) -> str:
        """Write the weights (safetensors, Hugging Face names) into `folder`; returns their checksum (`weights`)."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model in Hugging Face format (weights, configuration, tokenizer): loads with plain transformers."""
        ...

    def checkpoint(self, folder: Path) -> None:
        """Write everything that a learner needs to resume exactly: the optimiser, and, after the first step, the model
        as `save` does, or its adapter alone, in `model/`."""
        ...


class PerturbableLearner(Learner, Protocol):
    """A learner whose weights can be changed on purpose for a while."""

    @property
    def trained(self) -> Sequence[str]:
        """The names of the weights that are trained, as the model has them."""
        ...

    def perturbed(self, sizes: Mapping[str, float]) -> AbstractContextManager[None]:
        """Change these of the trained weights for a while (`perturbing`); the comparison on the first batch waits until
        afterwards."""
        ...
