"""The learner: an algorithm-blind accumulator of weighted log-likelihood.

    grad L = - sum_{i,t} w[i,t] * grad l[i,t]

It knows nothing of rewards, presets or ratios. It is given groups and a function from log-probabilities to weights; the
objective (`reasoner.gro`) decides. Axes: R responses in group order, T tokens padded to the longest response at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from reasoner.records import Group

WeightFunction = Callable[[Sequence[int], Tensor], Tensor]
"""`(rows, logprobs_RT) -> weights_RT` for the responses `rows`: indices into all responses of the groups in group
order, as they were packed, so not sorted. Both tensors are float32 (float64 for float64 models) on the learner's
device, right-padded to the longest response of the call; `logprobs_RT` carries no gradient and is 0 at padding.
Where the policy mask is False the learner ignores the weight."""


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What one `accumulate` did."""

    rows: int
    """packed rows that went through the model"""
    tokens: int
    """tokens in them, shared prompts counted once"""
    response_tokens: int
    responses: int
    loss: float
    """- sum of w * l over all responses (its value depends on the weights' anchor; for the logs only)"""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one `step` did."""

    applied: bool
    """False: the gradient was not finite, or nothing had been accumulated; the weights did not change"""
    reason: str
    """why not applied; empty when applied"""
    grad_norm: float
    """before clipping"""
    learning_rate: float
    version: int
    """optimiser steps behind the weights now"""


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

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        """(R)(T) log-probability of every response token, `log_softmax(logits / temperature)`, without gradient."""
        ...

    def accumulate(self, groups: Sequence[Group], weights: WeightFunction, temperature: float) -> Accumulated:
        """Add the gradient of `- sum w * l` over all responses of `groups`, in packed micro-batches."""
        ...

    def step(self) -> StepResult:
        """Clip, update, zero the gradient; a gradient that is not finite is dropped and reported."""
        ...

    def publish(self, folder: Path) -> str:
        """Write the weights (safetensors, Hugging Face names) into `folder`; returns their SHA-256."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model in Hugging Face format (weights, configuration, tokenizer): loads with plain transformers."""
        ...
