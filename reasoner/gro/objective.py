"""The objective: from credit and log-probabilities to one weight per token.

    L = - sum_i z_i sum_t m[i,t] ( link(c_i, l[i,t] - a[i,t]) - beta kl(l[i,t] - ref[i,t]) )
    w[i,t] = - dL / d l[i,t]

`c_i` (credit) and `z_i` (aggregation and normaliser) are fixed over the whole mini-batch before any forward; what
remains is a sum over responses. That is why the gradient does not depend on how the batch is cut. Source: arXiv
2503.19523; our reading is `docs/gro.md`.

Axes: N groups, G responses of a group, R = N G responses in group order, T tokens right-padded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from reasoner.gro.credit import credit, informative
from reasoner.gro.links import kl_estimate, link
from reasoner.gro.terms import Aggregation, Clip, Term


@dataclass(frozen=True, slots=True)
class Plan:
    """A term over one mini-batch, with everything that is fixed before the first forward."""

    term: Term
    credit_R: Tensor
    """credit of every response; 0 where abstained"""
    scale_R: Tensor
    """z_i: what one token of response i counts; 0 where abstained"""
    informative_N: Tensor
    """bool, groups with at least two valid, different rewards"""

    @property
    def active_R(self) -> Tensor:  # noqa: N802  axes in names
        """bool (R,): responses that can get weight. The others need no forward: the gradient is the same without
        them."""
        anchored = (
            self.scale_R != 0 if self.term.kl.coefficient > 0 else torch.zeros_like(self.scale_R, dtype=torch.bool)
        )
        return anchored | ((self.credit_R != 0) & (self.scale_R != 0))


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Sums over the responses that were weighed; add them over micro-batches."""

    loss: float = 0.0
    positive: float = 0.0
    """sum of w where w > 0: push up"""
    negative: float = 0.0
    """sum of -w where w < 0: push down"""
    tokens: int = 0
    """tokens of the policy"""
    zero: int = 0
    """tokens with w = 0"""
    clipped: int = 0
    """tokens with credit whose ratio the clip has cut off"""
    response_mass: float = 0.0
    """sum over responses of m_i = sum_t |w[i,t]|"""
    response_mass_squared: float = 0.0
    """sum over responses of m_i^2; mass^2 / mass_squared is the effective number of responses"""
    kl: float = 0.0
    """sum over tokens of the KL estimate"""

    def __add__(self, other: Diagnostics) -> Diagnostics:
        return Diagnostics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def plan(term: Term, rewards_NG: Tensor, valid_NG: Tensor, lengths_NG: Tensor, max_tokens: int) -> Plan:
    """Fix credit and normalisers over the mini-batch.

    Args:
        term: the choices.
        rewards_NG: total reward of every response; anything where not valid.
        valid_NG: bool; False where the response abstained.
        lengths_NG: tokens of every response that the policy wrote.
        max_tokens: the longest response allowed, the default K of the `constant` aggregation.
    """
    credit_NG = credit(term.credit, rewards_NG, valid_NG)
    scale_R = _scale(term.aggregation, credit_NG.flatten(), valid_NG.flatten(), lengths_NG.flatten(), max_tokens)
    return Plan(term, credit_NG.flatten(), scale_R, informative(rewards_NG, valid_NG))


def _scale(spec: Aggregation, credit_R: Tensor, valid_R: Tensor, lengths_R: Tensor, max_tokens: int) -> Tensor:
    """z_i of every response. Abstained responses leave Z; those with zero credit stay in it.

    token-mean:           1 / sum_j len_j
    credited-token-mean:  the same over the responses with credit
    response-mean:        1 / (R len_i)
    response-sum:         1 / R
    constant:             1 / (R K)
    """
    counted_R = valid_R & (credit_R != 0) if spec.kind == "credited-token-mean" else valid_R
    ones_R = torch.ones_like(credit_R)
    responses = counted_R.sum().clamp(min=1).to(credit_R.dtype)
    lengths_R = lengths_R.to(credit_R.dtype)
    match spec.kind:
        case "token-mean" | "credited-token-mean":
            scale_R = ones_R / (lengths_R * counted_R).sum().clamp(min=1)
        case "response-mean":
            scale_R = 1 / (responses * lengths_R.clamp(min=1))
        case "response-sum":
            scale_R = ones_R / responses
        case "constant":
            scale_R = ones_R / (responses * (spec.length or max_tokens))
    return scale_R * counted_R


def loss(
    term: Term,
    logprobs_RT: Tensor,
    old_RT: Tensor,
    reference_RT: Tensor | None,
    mask_RT: Tensor,
    credit_R: Tensor,
    scale_R: Tensor,
) -> Tensor:
    """L of the responses at hand (a scalar, differentiable in `logprobs_RT`). The terms of other responses only add
    to it."""
    zero = torch.zeros_like(logprobs_RT)
    # where, not a product, on both sides of the link: padding may hold anything, and 0 * inf is NaN in the gradient
    # too.
    u_RT = torch.where(mask_RT, logprobs_RT - old_RT if term.anchor == "old" else logprobs_RT, zero)
    value_RT = link(term.link, u_RT, credit_R[:, None].expand_as(u_RT))
    if term.kl.coefficient > 0:
        if reference_RT is None:
            raise ValueError(f"a KL coefficient of {term.kl.coefficient} needs reference log-probabilities; got none")
        from_reference_RT = torch.where(mask_RT, logprobs_RT - reference_RT, zero)
        value_RT = value_RT - term.kl.coefficient * kl_estimate(term.kl.estimator, from_reference_RT)
    return -(scale_R[:, None] * torch.where(mask_RT, value_RT, zero)).sum()


def weigh(
    the_plan: Plan,
    rows: Tensor,
    logprobs_RT: Tensor,
    mask_RT: Tensor,
    old_RT: Tensor | None = None,
    reference_RT: Tensor | None = None,
) -> tuple[Tensor, Diagnostics]:
    """The weights w = -dL/dl of some responses of the mini-batch, and what they look like.

    Args:
        the_plan: the term with its fixed credit and normalisers, over R responses.
        rows: (r,) which of the R responses these are.
        logprobs_RT: (r, T) under the policy being trained.
        mask_RT: (r, T) bool, the tokens that the policy wrote.
        old_RT: (r, T) under the policy when the batch arrived; None: the same as `logprobs_RT`.
        reference_RT: (r, T) under the reference; needed with a KL coefficient.
    """
    term = the_plan.term
    credit_R = the_plan.credit_R[rows].to(logprobs_RT)
    scale_R = the_plan.scale_R[rows].to(logprobs_RT)
    leaf_RT = logprobs_RT.detach().requires_grad_()
    old_RT = logprobs_RT.detach() if old_RT is None else old_RT
    with torch.enable_grad():
        value = loss(term, leaf_RT, old_RT, reference_RT, mask_RT, credit_R, scale_R)
        (gradient_RT,) = torch.autograd.grad(value, leaf_RT)
    weights_RT = -gradient_RT
    return weights_RT, _diagnose(term, value.detach(), weights_RT, leaf_RT.detach(), reference_RT, mask_RT, credit_R)


def _diagnose(
    term: Term,
    value: Tensor,
    weights_RT: Tensor,
    logprobs_RT: Tensor,
    reference_RT: Tensor | None,
    mask_RT: Tensor,
    credit_R: Tensor,
) -> Diagnostics:
    zero_RT = (weights_RT == 0) & mask_RT
    mass_R = weights_RT.abs().sum(dim=1)
    clipped = (zero_RT & (credit_R != 0)[:, None]).sum() if isinstance(term.link, Clip) else torch.tensor(0)
    kl = 0.0
    if reference_RT is not None:
        kl = float(kl_estimate(term.kl.estimator, logprobs_RT - reference_RT)[mask_RT].sum())
    return Diagnostics(
        loss=float(value),
        positive=float(weights_RT.clamp(min=0).sum()),
        negative=float(-weights_RT.clamp(max=0).sum()),
        tokens=int(mask_RT.sum()),
        zero=int(zero_RT.sum()),
        clipped=int(clipped),
        response_mass=float(mass_R.sum()),
        response_mass_squared=float(mass_R.square().sum()),
        kl=kl,
    )
