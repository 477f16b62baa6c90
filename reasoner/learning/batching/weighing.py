"""From outputs and weights to the loss of one micro-batch, the same for every engine, of a policy and of a critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reasoner.learning.batching.inputs import ModelInputs, ModelOutputs, policy_mask
from reasoner.learning.batching.packing import MicroBatch
from reasoner.learning.learner import WeightFunction
from reasoner.records import Response


@dataclass(frozen=True, slots=True)
class WeightedLoss:
    """The loss of a micro-batch."""

    loss: Tensor
    """- sum w o - sum v H, and that of routers, with gradient."""
    nonzero: bool
    """Whether any weight is not 0; otherwise the gradient is 0."""
    entropy: float
    """Sum of H over the policy's tokens, nats; 0 where entropies were not computed."""
    balance: float = 0.0
    """Sum over the responses of how evenly routers spread them; 0 where that was not computed."""
    rerouted: float = 0.0
    """Sum over the policy's tokens with replayed experts of the share of layers in which routers would have chosen
    others."""
    replayed: int = 0
    """Those tokens."""

    def detached(self) -> WeightedLoss:
        """Without what the backward pass would need."""
        return replace(self, loss=self.loss.detach())


def weigh_batch(
    batch: MicroBatch,
    responses: Sequence[Response],
    inputs: ModelInputs,
    outputs: ModelOutputs,
    weights: WeightFunction,
    balance_weight: float = 0.0,
) -> WeightedLoss:
    """Ask for the weights of a micro-batch and put its loss together: - sum w o - sum v H, and the weighted sum of the
    balances where routers are watched, whatever the weights of the tokens are.

    One response of two tokens, of which the first gets the weight 0.5 and the second -1:

    >>> from reasoner.gro.weights import Weights
    >>> from reasoner.learning.batching.inputs import flat_inputs
    >>> from reasoner.learning.batching.packing import PackedSequence
    >>> batch = MicroBatch((PackedSequence((1,), ((5, 6),), rows=(0,)),))
    >>> response = Response("", (5, 6), (True, True), (0.0, 0.0), "stop", 0)
    >>> inputs, logprobs_S = flat_inputs(batch, torch.device("cpu")), torch.tensor([-1.0, -2.0])
    >>> weights = lambda rows, logprobs_RT, entropies_RT: Weights(torch.tensor([[0.5, -1.0]]))
    >>> weigh_batch(batch, [response], inputs, (logprobs_S, None, None, None), weights).loss  # -(0.5 * -1 - 1 * -2)
    tensor(-1.5000)

    Args:
        responses: all of the batch, in group order.
        outputs: of the model, with gradient: log-probabilities, or a critic's values, and what belongs to them.
        weights: gives w and v.
        balance_weight: of the balance of each response.

    Raises:
        ValueError: the weights have the wrong shape, or are for entropies that were not computed.
    """
    outputs_S, entropies_S, balance_R, rerouted_S = outputs
    mask_S = policy_mask(batch, responses, outputs_S.device)
    entropies_RT = None if entropies_S is None else inputs.padded(entropies_S.detach())
    weighted = weights(batch.rows, inputs.padded(outputs_S.detach()), entropies_RT)
    weights_S = inputs.weights(weighted.weights_RT, outputs_S)
    loss = -(weights_S * outputs_S).sum()
    nonzero = bool(weights_S.any())
    if weighted.entropy_RT is not None:
        if entropies_S is None:
            raise ValueError("weights of the entropy were given, but no entropies: pass entropy=True to accumulate")
        bonus_S = torch.where(mask_S, inputs.weights(weighted.entropy_RT, outputs_S), 0.0)
        loss = loss - (bonus_S * entropies_S).sum()
        nonzero = nonzero or bool(bonus_S.any())
    if balance_R is not None:
        loss, nonzero = loss + balance_weight * balance_R.sum(), True
    replayed_S = None if rerouted_S is None else mask_S & (rerouted_S >= 0)
    return WeightedLoss(
        loss,
        nonzero,
        entropy=0.0 if entropies_S is None else float(entropies_S.detach()[mask_S].sum()),
        balance=0.0 if balance_R is None else float(balance_R.detach().sum()),
        rerouted=0.0 if rerouted_S is None else float(rerouted_S[replayed_S].sum()),
        replayed=0 if replayed_S is None else int(replayed_S.sum()),
    )
