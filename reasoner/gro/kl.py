"""Estimates of KL(theta || reference) per token, from u = l - l_ref."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner.gro.inputs import ObjectiveInputs, masked
from reasoner.gro.spec.terms import KL


def kl_estimate(estimator: str, u: Tensor) -> Tensor:
    """Elementwise: k1 = u, k2 = u^2 / 2, k3 = e^-u - 1 + u.

    >>> u = torch.tensor([-1.0, 0.0, 1.0])
    >>> kl_estimate("k1", u)
    tensor([-1.,  0.,  1.])
    >>> kl_estimate("k2", u)
    tensor([0.5000, 0.0000, 0.5000])
    >>> kl_estimate("k3", u)
    tensor([0.7183, 0.0000, 0.3679])

    Raises:
        ValueError: no such estimator.
    """
    match estimator:
        case "k1":
            return u
        case "k2":
            return u.square() / 2
        case "k3":
            return torch.expm1(-u) + u
    raise ValueError(f"unknown KL estimator {estimator!r}; known: k1, k2, k3")


def reward_penalty(spec: KL, inputs: ObjectiveInputs) -> Tensor | None:
    """(R, T) what the KL takes off the reward at each token, with the old policy for the current one; None: nothing.

    >>> mask_RT = torch.ones(1, 2, dtype=torch.bool)
    >>> logprobs = {"old_RT": torch.tensor([[-1.0, -2.0]]), "reference_RT": torch.tensor([[-1.5, -2.0]])}
    >>> inputs = ObjectiveInputs(torch.ones(1, 1), mask_RT[:, :1], mask_RT, **logprobs)
    >>> reward_penalty(KL(0.1, "k1", "reward"), inputs)  # 0.1 * (0.5, 0)
    tensor([[0.0500, 0.0000]])

    Raises:
        ValueError: the batch lacks log-probabilities of the old or of the reference policy.
    """
    if not spec.in_reward:
        return None
    why = "a KL penalty in the reward"
    difference_RT = inputs.needed("old_RT", why) - inputs.needed("reference_RT", why)
    return spec.coefficient * kl_estimate(spec.estimator, masked(difference_RT, inputs.mask_RT))
