"""Importance weights for the gap between the policy that sampled and the learner's when the batch arrived."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner.gro.inputs import masked
from reasoner.gro.spec.terms import Correction


def correction(spec: Correction, old_RT: Tensor, sampler_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """(R, T) factor of every token, without gradient; the same for all tokens of a response but at level `token`.

    rho = exp(d), d = l_old - l_sampler per token, summed (`sequence`) or averaged (`geometric`) over the response.
    truncate: min(rho, high); mask: rho inside [low, high], 0 outside.
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
