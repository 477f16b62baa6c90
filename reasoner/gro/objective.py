"""The objective: from credit and log-probabilities to one weight per token.

    L = sum_k lambda_k L_k        L_k = - sum_u z_u link(c_u, h_u(l) - a_u) + penalties
    w[i,t] = - dL / d l[i,t]

Units u are tokens, responses or pairs. `c` (credit), `z` (aggregation and normaliser) and which pairs there are, are
fixed over the whole mini-batch before any forward; what remains is a sum over units. That is why the gradient does not
depend on how the batch is cut. Source: arXiv 2503.19523; our reading is `docs/gro.md`.

Axes: N groups, G responses of a group, R = N G responses in group order, P pairs, T tokens right-padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoner.gro.diagnostics import Diagnostics
from reasoner.gro.evidence import bounded, high_entropy_tokens, response_evidence
from reasoner.gro.importance import correction
from reasoner.gro.inputs import ObjectiveInputs, masked
from reasoner.gro.kl import kl_estimate
from reasoner.gro.links import link
from reasoner.gro.spec.terms import Term
from reasoner.gro.term_plan import TermPlan
from reasoner.gro.weights import Weights


def weigh(
    plans: Sequence[TermPlan],
    inputs: ObjectiveInputs,
    rows: Sequence[int],
    logprobs_RT: Tensor,
    entropies_RT: Tensor | None = None,
) -> tuple[Weights, dict[str, Diagnostics]]:
    """The weights of some responses under the policy being trained, summed over the terms with their lambdas, and what
    they look like by term, without lambda.

    GRPO on two responses of one and of two tokens, on the policy that sampled them: w = credit / (responses * length).

    >>> from reasoner.gro.spec.terms import Aggregation, Anchor, Clip
    >>> from reasoner.gro.term_plan import credit_of, plan
    >>> term = Term(anchor=Anchor("old"), link=Clip(), aggregation=Aggregation("response-mean"))
    >>> mask_RT = torch.tensor([[True, False], [True, True]])
    >>> inputs = ObjectiveInputs(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), mask_RT)
    >>> grpo = plan("grpo", term, inputs, credit_of(term, inputs), max_tokens=2)
    >>> weights, _ = weigh([grpo], inputs, [0, 1], torch.tensor([[-1.0, 0.0], [-2.0, -0.5]]))
    >>> weights.weights_RT
    tensor([[ 0.2500,  0.0000],
            [-0.1250, -0.1250]])
    >>> weights, _ = weigh([grpo], inputs, [1], torch.tensor([[-2.0, -0.5]]))  # the same, whatever comes with it
    >>> weights.weights_RT
    tensor([[-0.1250, -0.1250]])

    Args:
        plans: terms of one mini-batch.
        inputs: the batch that they were planned over.
        rows: (r,) which of the batch's R responses these are; with a pair both of its responses.
        logprobs_RT: (r, T) their log-probabilities, right-padded to the longest of them.
        entropies_RT: (r, T) the entropy of each position's distribution, nats; None: no term needs it.

    Raises:
        ValueError: a term needs log-probabilities or entropies that are not there.
    """
    at, given = torch.tensor(rows, dtype=torch.int64), (logprobs_RT, entropies_RT)
    micros = {
        tokens: _MicroInputs.from_rows(inputs.reading(tokens), at, *given)
        for tokens in {plan.term.evidence.tokens for plan in plans}
    }
    weights_RT = torch.zeros_like(logprobs_RT)
    entropy_RT = torch.zeros_like(logprobs_RT) if any(plan.term.entropy for plan in plans) else None
    diagnostics = {}
    for plan in plans:
        micro = micros[plan.term.evidence.tokens]
        leaf_RT = logprobs_RT.detach().requires_grad_()
        with torch.enable_grad():
            value, cut_RT = _loss(plan, micro, leaf_RT)
            (gradient_RT,) = torch.autograd.grad(value, leaf_RT, allow_unused=True)
        # masked once more: the slope of a plugin's link may be infinite where there is nothing
        own_RT = torch.zeros_like(leaf_RT) if gradient_RT is None else masked(-gradient_RT, micro.mask_RT)
        weights_RT += plan.weight * own_RT
        if entropy_RT is not None and plan.term.entropy:
            entropy_RT += plan.weight * plan.term.entropy * masked(_token_scale(plan, micro), micro.mask_RT)
        diagnostics[plan.name] = _diagnose(plan, micro, value.detach(), own_RT, leaf_RT.detach(), cut_RT)
    return Weights(weights_RT, entropy_RT), diagnostics


@dataclass(frozen=True, slots=True)
class _MicroInputs:
    """What the objective reads of the responses at hand, on their device and in their number format."""

    rows: Tensor
    mask_RT: Tensor
    old_RT: Tensor
    reference_RT: Tensor | None
    sampler_RT: Tensor | None
    entropies_RT: Tensor | None

    @classmethod
    def from_rows(
        cls, inputs: ObjectiveInputs, rows: Tensor, logprobs_RT: Tensor, entropies_RT: Tensor | None
    ) -> _MicroInputs:
        width = logprobs_RT.shape[1]

        def cut(values_RT: Tensor | None) -> Tensor | None:
            return None if values_RT is None else values_RT[rows, :width].to(logprobs_RT)

        old_RT = cut(inputs.old_RT)
        return cls(
            rows=rows,
            mask_RT=inputs.mask_RT[rows, :width].to(logprobs_RT.device),
            old_RT=logprobs_RT.detach() if old_RT is None else old_RT,
            reference_RT=cut(inputs.reference_RT),
            sampler_RT=cut(inputs.sampler_RT),
            entropies_RT=entropies_RT,
        )

    def chosen_tokens(self, term: Term) -> Tensor:
        """(r, T) bool: the policy's tokens that can get weight from the term's link."""
        share = term.evidence.entropy_share
        if share == 1.0:
            return self.mask_RT
        if self.entropies_RT is None:
            raise ValueError(f"evidence.entropy_share = {share} needs the entropy of every position; got none")
        return high_entropy_tokens(share, self.entropies_RT, self.mask_RT)

    def anchored(self, term: Term) -> Tensor | None:
        """Log-probabilities under the policy that is the term's anchor; None: the anchor is a number."""
        if term.anchor.kind == "sampler" and self.sampler_RT is None:
            raise ValueError("the anchor 'sampler' needs the sampler's log-probabilities; got none")
        return {"old": self.old_RT, "sampler": self.sampler_RT}.get(term.anchor.kind)

    def select(self, values: Tensor) -> Tensor:
        """Values of all R responses, of those at hand."""
        return values[self.rows].to(self.old_RT)


def _loss(plan: TermPlan, micro: _MicroInputs, logprobs_RT: Tensor) -> tuple[Tensor, Tensor | None]:
    """L_k of the responses at hand (a scalar, differentiable in the log-probabilities; other responses only add to
    it), and which tokens' importance weight was cut."""
    if plan.term.evidence.unit == "pair":
        return _pair_loss(plan, micro, logprobs_RT), None
    rho_RT = _correction(plan.term, micro)
    if plan.term.evidence.unit == "token":
        value_RT = _token_value(plan, micro, logprobs_RT)
        if rho_RT is not None:
            value_RT = value_RT * rho_RT
        loss = -(micro.select(plan.scale_R)[:, None] * masked(value_RT, micro.chosen_tokens(plan.term))).sum()
    else:
        value_R = _response_value(plan, micro, logprobs_RT)
        if rho_RT is not None:
            value_R = value_R * rho_RT[:, 0]
        loss = -(micro.select(plan.scale_R) * value_R).sum()
    cut_RT = None if rho_RT is None else (rho_RT == 0) | (rho_RT >= plan.term.correction.high)
    return loss + _penalty(plan, micro, logprobs_RT), cut_RT


def _token_value(plan: TermPlan, micro: _MicroInputs, logprobs_RT: Tensor) -> Tensor:
    # masked on both sides of the link: padding may hold anything, and 0 * inf is NaN in the gradient too
    before_RT = micro.anchored(plan.term)
    anchor = plan.term.anchor.constant if before_RT is None else before_RT
    u_RT = masked(logprobs_RT - anchor, micro.mask_RT)
    width = 1 if plan.credit_RT.shape[1] == 1 else u_RT.shape[1]
    credit_RT = micro.select(plan.credit_RT[:, :width]).expand_as(u_RT)
    return link(plan.term.link, u_RT, credit_RT, None if before_RT is None else masked(before_RT, micro.mask_RT))


def _response_value(plan: TermPlan, micro: _MicroInputs, logprobs_RT: Tensor) -> Tensor:
    spec, anchor = plan.term.evidence, plan.term.anchor
    credit_R = micro.select(plan.credit_RT)[:, 0]
    before_RT = micro.anchored(plan.term)
    if before_RT is not None and spec.bound is not None:
        u_RT = bounded(spec.bound, masked(logprobs_RT - before_RT, micro.mask_RT), credit_R[:, None])
        return link(plan.term.link, spec.beta * response_evidence(spec, u_RT, None, micro.mask_RT), credit_R)
    evidence_R = response_evidence(spec, logprobs_RT, micro.reference_RT, micro.mask_RT)
    if before_RT is not None:
        anchor_R = spec.beta * response_evidence(spec, before_RT, micro.reference_RT, micro.mask_RT)
    else:
        anchor_R = torch.full_like(evidence_R, spec.beta * plan.z0 if anchor.kind == "kl" else anchor.constant)
    return link(plan.term.link, spec.beta * evidence_R - anchor_R, credit_R)


def _pair_loss(plan: TermPlan, micro: _MicroInputs, logprobs_RT: Tensor) -> Tensor:
    difference_P = _pair_evidence(plan, micro, logprobs_RT)
    u_P = difference_P - plan.term.anchor.constant
    return -link(plan.term.link, u_P, torch.ones_like(u_P)).sum() / max(len(plan.pairs_P2), 1)


def _pair_evidence(plan: TermPlan, micro: _MicroInputs, logprobs_RT: Tensor) -> Tensor:
    """(p,) beta (f(l_chosen) - bias f(l_rejected)) of the pairs among the responses at hand."""
    spec = plan.term.evidence
    evidence_R = response_evidence(spec, logprobs_RT, micro.reference_RT, micro.mask_RT)
    places = {row: place for place, row in enumerate(micro.rows.tolist())}
    pairs = sorted({pair for row in places for pair in plan.pairs_of_row.get(row, ())})
    local = [(places[chosen], places[rejected]) for chosen, rejected in plan.pairs_P2[pairs].tolist()]
    places_P2 = torch.tensor(local, dtype=torch.int64, device=logprobs_RT.device).reshape(-1, 2)
    return spec.beta * (evidence_R[places_P2[:, 0]] - spec.bias * evidence_R[places_P2[:, 1]])


def _correction(term: Term, micro: _MicroInputs) -> Tensor | None:
    if term.correction.kind == "none":
        return None
    if micro.sampler_RT is None:
        raise ValueError("a correction needs the sampler's log-probabilities; got none")
    return correction(term.correction, micro.old_RT, micro.sampler_RT, micro.mask_RT)


def _penalty(plan: TermPlan, micro: _MicroInputs, logprobs_RT: Tensor) -> Tensor:
    """The KL in the loss, aggregated as the term and without its correction."""
    spec = plan.term.kl
    if not spec.in_loss:
        return logprobs_RT.new_zeros(())
    if micro.reference_RT is None:
        raise ValueError(f"a KL coefficient of {spec.coefficient} needs reference log-probabilities; got none")
    # masked before the estimate: e^-u of padding may overflow
    estimate_RT = kl_estimate(spec.estimator, masked(logprobs_RT - micro.reference_RT, micro.mask_RT))
    return spec.coefficient * (_token_scale(plan, micro) * masked(estimate_RT, micro.mask_RT)).sum()


def _token_scale(plan: TermPlan, micro: _MicroInputs) -> Tensor:
    """(r, T) what a penalty per token counts: the term's z; a response's z is shared by its tokens where its evidence
    is their mean."""
    scale_R = micro.select(plan.scale_R)
    if plan.term.evidence.unit == "response" and plan.term.evidence.reduce == "mean":
        scale_R = scale_R / micro.mask_RT.sum(dim=1).clamp(min=1)
    return scale_R[:, None].expand(micro.mask_RT.shape)


def _diagnose(
    plan: TermPlan, micro: _MicroInputs, value: Tensor, weights_RT: Tensor, logprobs_RT: Tensor, cut_RT: Tensor | None
) -> Diagnostics:
    pair = plan.term.evidence.unit == "pair"
    active_R = plan.active_R[micro.rows].to(micro.mask_RT.device)
    counted_RT = micro.mask_RT & active_R[:, None]
    credit_RT = micro.select(plan.credit_RT[:, : weights_RT.shape[1]]) != 0
    mass_R = weights_RT.abs().sum(dim=1)
    nonzero_RT = (weights_RT != 0) & counted_RT
    ratio = (logprobs_RT - micro.old_RT)[counted_RT].exp()
    kl = 0.0
    if micro.reference_RT is not None:
        estimator = "k2" if pair else plan.term.kl.estimator
        kl = float(kl_estimate(estimator, (logprobs_RT - micro.reference_RT)[counted_RT]).sum())
    margins = _pair_evidence(plan, micro, logprobs_RT) if pair else logprobs_RT.new_zeros(0)
    return Diagnostics(
        loss=float(value),
        positive=float(weights_RT.clamp(min=0).sum()),
        negative=float(-weights_RT.clamp(max=0).sum()),
        tokens=int(counted_RT.sum()),
        nonzero=int(nonzero_RT.sum()),
        clipped=int((counted_RT & ~nonzero_RT & credit_RT & micro.chosen_tokens(plan.term)).sum()),
        response_mass=float(mass_R.sum()),
        response_mass_squared=float(mass_R.square().sum()),
        kl=kl,
        ratio=float(ratio.sum()),
        ratio_max=float(ratio.max()) if ratio.numel() else 0.0,
        corrected=0 if cut_RT is None else int((cut_RT & counted_RT).sum()),
        pairs=len(margins),
        pairs_right=int((margins > 0).sum()),
        margin=float(margins.sum()),
    )
