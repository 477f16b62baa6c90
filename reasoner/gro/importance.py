"""Importance weights for the gap between the policy that sampled and the learner's when the batch arrived."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner.gro.inputs import masked
from reasoner.gro.spec.terms import Correction


def correction(spec: Correction, old_RT: Tensor, sampler_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """(R, T) factor of every token, without gradient; the same for all tokens of a response but at level `token`.

    rho = exp(d), d = l_old - l_sampler per token, summed (`sequence`) or averaged (`geometric`) over the response.
    truncate: min(rho, high) (TIS); mask: rho inside [low, high], 0 outside (IcePop, 2510.18855).

    A response of two tokens that the learner gives half and four times the sampler's probability:

    >>> old_RT, mask_RT = torch.tensor([[0.5, 4.0]]).log(), torch.ones(1, 2, dtype=torch.bool)
    >>> sampler_RT = torch.zeros(1, 2)
    >>> correction(Correction("truncate", "token", high=2.0), old_RT, sampler_RT, mask_RT)
    tensor([[0.5000, 2.0000]])
    >>> correction(Correction("mask", "token", low=0.5, high=2.0), old_RT, sampler_RT, mask_RT)
    tensor([[0.5000, 0.0000]])
    >>> correction(Correction("truncate", "sequence", high=5.0), old_RT, sampler_RT, mask_RT)  # 0.5 * 4
    tensor([[2., 2.]])
    >>> correction(Correction("truncate", "geometric", high=5.0), old_RT, sampler_RT, mask_RT)  # its square root
    tensor([[1.4142, 1.4142]])

    Args:
        spec: which correction.
        old_RT: log-probabilities under the learner's policy when the batch arrived.
        sampler_RT: as the sampler reported them.
        mask_RT: bool; tokens that the policy wrote.
    """
    with torch.no_grad():
        difference_RT = masked(old_RT - sampler_RT, mask_RT)
        if spec.level != "token":
            total_R1 = difference_RT.sum(dim=1, keepdim=True)
            if spec.level == "geometric":
                total_R1 = total_R1 / mask_RT.sum(dim=1, keepdim=True).clamp(min=1)
            difference_RT = total_R1.expand_as(difference_RT)
        rho_RT = difference_RT.exp()
        if spec.kind == "truncate":
            return rho_RT.clamp(max=spec.high)
        return masked(rho_RT, (rho_RT >= spec.low) & (rho_RT <= spec.high))
