"""What the objective hands to the learner."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """What the loss multiplies the model's outputs with: `loss = - sum w o - sum v H`.

    Axes: R responses of one call, in the order of its rows, T tokens right-padded.
    """

    weights_RT: Tensor
    """w = - dL/do for every token's output o: the log-probability of a policy, or the value of a critic."""
    entropy_RT: Tensor | None = None
    """v = - dL/dH for the entropy H of every position; None: no term has an entropy bonus."""
