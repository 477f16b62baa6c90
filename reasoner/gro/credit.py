"""Credit: how good each response was, as a pure function of the rewards. No gradient flows through it.

Axes: N groups, G responses of a group. Abstained responses (`valid` False) get credit 0 and leave every mean,
deviation and best. A group that says nothing (fewer than two valid responses, or all rewards equal) gets credit
*exactly* 0 wherever credit compares responses: rounding must not turn "no difference" into a weight, or the update
could not skip the group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner.gro.terms import Advantage, Best, Credit, Threshold

EPSILON = 1e-4
"""added to the group's standard deviation (as in the common implementations of 2402.03300)"""


def credit(spec: Credit, rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """(N, G) credit of every response, in the rewards' number format.

    Args:
        spec: which credit.
        rewards_NG: rewards; entries that are not valid may hold anything, NaN included.
        valid_NG: bool; False where the response abstained.
    """
    rewards_NG = torch.where(valid_NG, rewards_NG, torch.zeros_like(rewards_NG))
    match spec:
        case Advantage():
            credit_NG = _advantage(spec, rewards_NG, valid_NG)
        case Best():
            credit_NG = _best(rewards_NG, valid_NG)
        case Threshold():
            credit_NG = (rewards_NG >= spec.at).to(rewards_NG.dtype)
    return torch.where(valid_NG, credit_NG, torch.zeros_like(credit_NG))


def informative(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """(N,) True for groups with at least two valid responses whose rewards differ."""
    high_N = rewards_NG.masked_fill(~valid_NG, -torch.inf).amax(dim=1)
    low_N = rewards_NG.masked_fill(~valid_NG, torch.inf).amin(dim=1)
    return (valid_NG.sum(dim=1) >= 2) & (high_N > low_N)


def _advantage(spec: Advantage, rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """(R - b) / s with b and s over the group's valid responses.

    mean:           b = mean_j R_j
    leave-one-out:  b_i = mean_{j != i} R_j, so that R_i - b_i = n / (n - 1) (R_i - mean)    (2402.14740)
    group:          s = sqrt(sum_j (R_j - mean)^2 / (n - 1)) + 1e-4                          (2402.03300)
    """
    count_N1 = valid_NG.sum(dim=1, keepdim=True).to(rewards_NG.dtype)
    mean_N1 = rewards_NG.sum(dim=1, keepdim=True) / count_N1.clamp(min=1)
    centred_NG = torch.where(valid_NG, rewards_NG - mean_N1, torch.zeros_like(rewards_NG))
    others_N1 = (count_N1 - 1).clamp(min=1)
    match spec.baseline:
        case "none":
            credit_NG = rewards_NG
        case "mean":
            credit_NG = centred_NG
        case "leave-one-out":
            credit_NG = centred_NG * count_N1 / others_N1
    if spec.scale == "group":
        credit_NG = credit_NG / ((centred_NG.square().sum(dim=1, keepdim=True) / others_N1).sqrt() + EPSILON)
    if spec.baseline == "none" and spec.scale == "none":
        return credit_NG
    return credit_NG * informative(rewards_NG, valid_NG)[:, None]


def _best(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    winner_N = rewards_NG.masked_fill(~valid_NG, -torch.inf).argmax(dim=1)
    chosen_NG = torch.nn.functional.one_hot(winner_N, rewards_NG.shape[1]).to(rewards_NG.dtype)
    return chosen_NG * informative(rewards_NG, valid_NG)[:, None]
