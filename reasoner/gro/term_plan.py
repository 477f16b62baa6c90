"""What is fixed of a term over a whole mini-batch before any forward: credit, normalisers and pairs.

That the rest is a sum over units is why the gradient does not depend on how the batch is cut (`objective`).

Axes: N groups, G responses of a group, R = N G responses in group order, P pairs, T tokens right-padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoner.gro.credit import credit
from reasoner.gro.inputs import ObjectiveInputs, masked
from reasoner.gro.pairs import mine_pairs, pairs_of_row
from reasoner.gro.spec.terms import Term


@dataclass(frozen=True, slots=True)
class TermPlan:
    """A term over one mini-batch, with everything that is fixed before the first forward."""

    name: str
    term: Term
    weight: float
    """lambda at this step."""
    credit_RT: Tensor
    """(R, 1), or (R, T) where credit is per token; 0 where abstained"""
    scale_R: Tensor
    """z, the weight of response i or of each of its tokens in the sum; 0 where it does not count (it abstained, or is
    outside the mini-batch)."""
    pairs_P2: Tensor
    """Rows of the chosen and the rejected response of the mini-batch's pairs; z of each pair is 1 / P."""
    pairs_of_row: Mapping[int, Sequence[int]]
    """For the row of a response, the pairs that it is in."""
    z0: float
    """Estimate of KL(theta || reference) over the batch, for the anchor `kl`, nats."""
    tokens: int
    """Tokens that the term reads, in responses that count."""

    @property
    def active_R(self) -> Tensor:  # noqa: N802  axes in names
        """bool (R,): responses that can get weight. The others need no forward: the gradient is the same without
        them."""
        if self.term.evidence.unit == "pair":
            active_R = torch.zeros_like(self.scale_R, dtype=torch.bool)
            active_R[self.pairs_P2.flatten()] = True
            return active_R
        counted_R = self.scale_R != 0
        penalised = self.term.entropy != 0.0 or self.term.kl.in_loss
        return counted_R if penalised else counted_R & (self.credit_RT != 0).any(dim=1)


def credit_of(term: Term, inputs: ObjectiveInputs) -> Tensor:
    """(R, 1) or (R, T) credit over the whole batch, 0 where abstained; what `plan` takes.

    Once per batch and term, not per mini-batch: the credit of a plugin may draw random numbers, and all mini-batches
    and passes must see the same.

    >>> from reasoner.gro.spec.terms import Advantage
    >>> mask_RT = torch.ones(2, 3, dtype=torch.bool)
    >>> inputs = ObjectiveInputs(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), mask_RT)
    >>> credit_of(Term(credit=Advantage(baseline="leave-one-out")), inputs)
    tensor([[ 1.],
            [-1.]])

    Args:
        term: bound to the functions of plugins (`Algorithms.bind`).
        inputs: the whole batch.

    Raises:
        ValueError: as `credit`.
    """
    inputs = inputs.reading(term.evidence.tokens)
    pairs_P2 = _pairs(term, inputs, _counted(term, inputs))
    credit_RT = credit(term, inputs, pairs_P2)
    return masked(credit_RT, inputs.mask_RT) if credit_RT.shape[1] > 1 else credit_RT


def plan(
    name: str,
    term: Term,
    inputs: ObjectiveInputs,
    credit_RT: Tensor,
    max_tokens: int,
    weight: float = 1.0,
    z0: float | None = None,
    rows: Sequence[int] | None = None,
) -> TermPlan:
    """Fix normalisers and pairs of a term over a mini-batch.

    Two responses of one and of three tokens, what each of their tokens counts:

    >>> from reasoner.gro.spec.terms import Aggregation, Best, Evidence, One
    >>> mask_RT = torch.tensor([[True, False, False], [True, True, True]])
    >>> inputs = ObjectiveInputs(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), mask_RT)
    >>> def scales(kind, **more):
    ...     term = Term(credit=Best(), aggregation=Aggregation(kind, **more))
    ...     return plan("example", term, inputs, credit_of(term, inputs), max_tokens=10).scale_R
    >>> scales("token-mean")  # 1 / 4
    tensor([0.2500, 0.2500])
    >>> scales("token-mean", credited=True)  # only the best response has credit: 1 / 1
    tensor([1., 0.])
    >>> scales("response-mean")  # 1 / (2 * 1), 1 / (2 * 3)
    tensor([0.5000, 0.1667])
    >>> scales("response-sum")  # 1 / 2
    tensor([0.5000, 0.5000])
    >>> scales("constant")  # 1 / (2 * 10)
    tensor([0.0500, 0.0500])
    >>> scales("responses")  # of each response, not of a token
    tensor([0.5000, 0.5000])
    >>> term = Term(credit=One(), evidence=Evidence("pair"), aggregation=Aggregation("pairs"))
    >>> plan("example", term, inputs, credit_of(term, inputs), max_tokens=10).pairs_P2  # each counts 1 / 1
    tensor([[0, 1]])

    Args:
        name: of the term, for the diagnostics.
        term: the choices, bound to the functions of plugins (`Algorithms.bind`).
        inputs: the whole batch.
        credit_RT: of the whole batch (`credit_of`).
        max_tokens: the longest response allowed, the default K of the `constant` aggregation.
        weight: lambda.
        z0: the batch's KL estimate for the anchor `kl`; None: from the sampler's log-probabilities.
        rows: the mini-batch's responses (whole groups), over which Z is taken; None: all.
    """
    inputs = inputs.reading(term.evidence.tokens)
    inside_R = torch.ones_like(inputs.valid_R) if rows is None else torch.zeros_like(inputs.valid_R)
    if rows is not None:
        inside_R[torch.tensor(rows, dtype=torch.int64)] = True
    counted_R = inside_R & _counted(term, inputs)
    if term.anchor.kind == "kl" and z0 is None:
        z0 = sampled_kl(inputs, counted_R)
    pairs_P2 = _pairs(term, inputs, counted_R)
    return TermPlan(
        name=name,
        term=term,
        weight=weight,
        credit_RT=credit_RT,
        scale_R=_scale(term, credit_RT, counted_R, inputs.lengths_R, max_tokens),
        pairs_P2=pairs_P2,
        pairs_of_row=pairs_of_row(pairs_P2),
        z0=z0 or 0.0,
        tokens=int(inputs.lengths_R[counted_R].sum()),
    )


def _counted(term: Term, inputs: ObjectiveInputs) -> Tensor:
    """bool (R,): responses of the batch that a term takes into account."""
    counted_R = inputs.valid_R if term.needs_reward else torch.ones_like(inputs.valid_R)
    if term.evidence.tokens == "observed":  # a response that read nothing is no zero in a mean over what was read
        counted_R = counted_R & (inputs.lengths_R > 0)
    if term.mask_truncated and inputs.truncated_R is not None:
        return counted_R & ~inputs.truncated_R
    return counted_R


def _pairs(term: Term, inputs: ObjectiveInputs, counted_R: Tensor) -> Tensor:
    """(P, 2) the term's pairs among some responses: none where it has no use for them."""
    if not term.reads_pairs:
        return torch.empty(0, 2, dtype=torch.int64)
    return mine_pairs(term.pairing, inputs.rewards_NG, counted_R.reshape(inputs.valid_NG.shape))


def sampled_kl(inputs: ObjectiveInputs, counted_R: Tensor) -> float:
    """max(0, mean over responses of sum_t (l_sampler - l_ref)): the KL of the policy that sampled, with no forward.

    >>> mask_RT = torch.ones(2, 1, dtype=torch.bool)
    >>> logprobs = {"sampler_RT": torch.tensor([[-1.0], [-1.0]]), "reference_RT": torch.tensor([[-2.0], [-1.5]])}
    >>> inputs = ObjectiveInputs(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), mask_RT, **logprobs)
    >>> sampled_kl(inputs, torch.tensor([True, True]))  # (1 + 0.5) / 2
    0.75

    Args:
        inputs: the whole batch.
        counted_R: bool; the responses of the mean.

    Raises:
        ValueError: the batch lacks log-probabilities of the sampler or of the reference policy.
    """
    why = "the anchor `kl`"
    difference_RT = inputs.needed("sampler_RT", why) - inputs.needed("reference_RT", why)
    total_R = masked(difference_RT, inputs.mask_RT).sum(dim=1)[counted_R]
    return max(0.0, float(total_R.mean())) if len(total_R) else 0.0


def _scale(term: Term, credit_RT: Tensor, counted_R: Tensor, lengths_R: Tensor, max_tokens: int) -> Tensor:
    """z of every token or response. Abstained responses leave Z; those with zero credit stay in it, unless `credited`.

    token-mean:     1 / sum_j len_j
    response-mean:  1 / (R len_i)
    response-sum:   1 / R
    constant:       1 / (R K)
    responses:      1 / R, of each response
    pairs:          not per response: 1 / P of each pair

    The first four are what a token counts. A response's evidence is the sum or the mean of its tokens, so that its z is
    that of one token or of all of them.
    """
    spec = term.aggregation
    if spec.credited:
        counted_R = counted_R & (credit_RT != 0).any(dim=1)
    ones_R = torch.ones_like(credit_RT[:, 0])
    responses = counted_R.sum().clamp(min=1).to(ones_R.dtype)
    lengths_R = lengths_R.to(ones_R.dtype)
    match spec.kind:
        case "token-mean":
            scale_R = ones_R / (lengths_R * counted_R).sum().clamp(min=1)
        case "response-mean":
            scale_R = 1 / (responses * lengths_R.clamp(min=1))
        case "response-sum" | "responses":
            scale_R = ones_R / responses
        case "constant":
            scale_R = ones_R / (responses * (spec.length or max_tokens))
        case "pairs":
            scale_R = ones_R
    if term.evidence.unit == "response" and term.evidence.reduce == "mean" and spec.kind != "responses":
        scale_R = scale_R * lengths_R
    return scale_R * counted_R
