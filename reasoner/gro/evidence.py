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

    >>> logprobs_RT, mask_RT = torch.tensor([[-1.0, -3.0]]), torch.ones(1, 2, dtype=torch.bool)
    >>> of_responses(Evidence("response", "sum"), logprobs_RT, None, mask_RT)
    tensor([-4.])
    >>> of_responses(Evidence("response", "sum", discount=0.5), logprobs_RT, None, mask_RT)  # -1 - 0.5 * 3
    tensor([-2.5000])
    >>> of_responses(Evidence("response", "mean"), logprobs_RT, None, mask_RT)
    tensor([-2.])
    >>> of_responses(Evidence("response", "log-odds"), logprobs_RT, None, mask_RT)  # p = e^-2
    tensor([-1.8546])
    >>> of_responses(Evidence("response", "sum", reference=True), logprobs_RT, torch.tensor([[-2.0, -2.5]]), mask_RT)
    tensor([0.5000])

    Args:
        spec: which f.
        logprobs_RT: l; padding may hold anything.
        reference_RT: l_ref; None: not known.
        mask_RT: bool; tokens that the policy wrote.

    Raises:
        ValueError: the reference's log-probabilities are needed and not there.
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


def of_high_entropy(share: float, entropies_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """(R, T) bool: the ceil(share * T_i) tokens of each response with the highest entropy (2506.01939), T_i its tokens.

    Tokens whose entropy is that of the last of them count too. The paper takes the share over the batch's tokens; over
    each response's own it is known inside the forward pass that is trained on, and does not depend on how the batch is
    cut.

    >>> entropies_RT = torch.tensor([[0.1, 2.0, 0.7, 1.5]])
    >>> of_high_entropy(0.5, entropies_RT, torch.ones(1, 4, dtype=torch.bool))
    tensor([[False,  True, False,  True]])

    Args:
        share: in (0, 1].
        entropies_RT: of each position's distribution, nats; padding may hold anything.
        mask_RT: bool; tokens that the policy wrote.
    """
    ordered_RT = entropies_RT.masked_fill(~mask_RT, -torch.inf).sort(dim=1, descending=True).values
    # a little less, so that 0.1 * 30 is 3 and not the number above it
    count_R1 = (share * mask_RT.sum(dim=1, keepdim=True).double() - 1e-9).ceil().clamp(min=1).to(torch.int64)
    return mask_RT & (entropies_RT >= ordered_RT.gather(1, count_R1 - 1))


def bounded(bound: float, u_RT: Tensor, credit_R1: Tensor) -> Tensor:
    """min(u, bound) where the credit is positive, max(u, -bound) where it is not: what has gone that far counts, and
    carries gradient, no further (2507.20673).

    >>> bounded(0.4, torch.tensor([[-1.0, 0.1, 1.0], [-1.0, 0.1, 1.0]]), torch.tensor([[2.0], [-2.0]]))
    tensor([[-1.0000,  0.1000,  0.4000],
            [-0.4000,  0.1000,  1.0000]])
    """
    return torch.where(credit_R1 > 0, u_RT.clamp(max=bound), u_RT.clamp(min=-bound))
