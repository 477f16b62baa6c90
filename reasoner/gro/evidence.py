"""Evidence: what the policy says of a whole response. Differentiable in the log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner.gro.inputs import masked
from reasoner.gro.spec.terms import Evidence

NEARLY_CERTAIN = -1e-4
"""mean log-probability above which log-odds grow no further: at p = 1 they are infinite, their gradient too"""


def of_responses(spec: Evidence, logprobs_RT: Tensor, reference_RT: Tensor | None, mask_RT: Tensor) -> Tensor:
    """(R,) f(l) of every response, or f(l - l_ref); `beta` and `bias` are the caller's.

    sum: sum_t gamma^t l_t over the policy's tokens, counted from 0; mean: mean_t l_t; log-odds: log(p / (1 - p)) with
    p = exp(mean_t l_t) (2403.07691).
    """
    if spec.reference:
        if reference_RT is None:
            raise ValueError("evidence relative to the reference needs its log-probabilities; got none")
        logprobs_RT = logprobs_RT - reference_RT
    kept_RT = masked(logprobs_RT, mask_RT)
    if spec.reduce == "sum":
        if spec.discount == 1.0:
            return kept_RT.sum(dim=1)
        place_RT = mask_RT.cumsum(dim=1) - 1
        return (kept_RT * spec.discount ** place_RT.clamp(min=0).to(kept_RT)).sum(dim=1)
    mean_R = kept_RT.sum(dim=1) / mask_RT.sum(dim=1).clamp(min=1)
    if spec.reduce == "mean":
        return mean_R
    return mean_R - torch.log(-torch.expm1(mean_R.clamp(max=NEARLY_CERTAIN)))


def bounded(bound: float, u_RT: Tensor, credit_R1: Tensor) -> Tensor:
    """min(u, bound) where the credit is positive, max(u, -bound) where it is not: what has gone that far counts, and
    carries gradient, no further (2507.20673)."""
    return torch.where(credit_R1 > 0, u_RT.clamp(max=bound), u_RT.clamp(min=-bound))
