"""From log-probabilities and weights to the loss of one micro-batch, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reasoner.learning.batching.inputs import ModelInputs, policy_mask
from reasoner.learning.batching.packing import MicroBatch
from reasoner.learning.learner import WeightFunction
from reasoner.records import Response


@dataclass(frozen=True, slots=True)
class WeightedLoss:
    """The loss of a micro-batch."""

    loss: Tensor
    """- sum w * l - sum v * H, with gradient"""
    wanted: bool
    """False: every weight is 0, and so is the gradient"""
    entropy: float
    """sum of H over the policy's tokens, nats; 0 when entropies were not asked for"""


def weigh_batch(
    batch: MicroBatch,
    responses: Sequence[Response],
    inputs: ModelInputs,
    logprobs_S: Tensor,
    entropies_S: Tensor | None,
    weights: WeightFunction,
) -> WeightedLoss:
    """Ask for the weights of a micro-batch and put its loss together.

    Args:
        responses: those of all groups, in group order.

    Raises:
        ValueError: the weights have the wrong shape, or are for entropies that were not computed.
    """
    mask_S = policy_mask(batch, responses, logprobs_S.device)
    found = weights(batch.indices, inputs.padded(logprobs_S.detach()))
    weights_S = inputs.weights(found.logprobs_RT, mask_S, logprobs_S)
    loss = -(weights_S * logprobs_S).sum()
    wanted = bool(weights_S.any())
    if found.entropy_RT is not None:
        if entropies_S is None:
            raise ValueError("weights of the entropy were given, but no entropies: pass entropy=True to accumulate")
        bonus_S = inputs.weights(found.entropy_RT, mask_S, logprobs_S)
        loss = loss - (bonus_S * entropies_S).sum()
        wanted = wanted or bool(bonus_S.any())
    return WeightedLoss(loss, wanted, 0.0 if entropies_S is None else float(entropies_S.detach()[mask_S].sum()))
