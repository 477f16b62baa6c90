"""Credit: how good each response, or each of its tokens, was. No gradient flows through it.

Abstained responses (`valid` False) get credit 0 and leave every mean, deviation and best. A group that says nothing
(fewer than two valid responses, or all rewards equal) gets credit *exactly* 0 wherever credit compares its responses:
rounding must not turn "no difference" into a weight, or the update could not skip the group.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from reasoner.gro.inputs import ObjectiveInputs, masked
from reasoner.gro.kl import reward_penalty
from reasoner.gro.spec.terms import (
    GROUP_BASELINES,
    KL,
    Advantage,
    Best,
    Chosen,
    CustomCredit,
    Label,
    Marginal,
    One,
    PassAtK,
    Teacher,
    Term,
    Threshold,
)

GROUP_EPSILON = 1e-4
"""Added to the group's standard deviation (as in the common implementations of 2402.03300)."""
BATCH_EPSILON = 1e-8
"""Added to the batch's standard deviation."""


def credit(term: Term, inputs: ObjectiveInputs, pairs_P2: Tensor) -> Tensor:
    """(R, 1) credit of every response, or (R, T) of every token, in the rewards' number format.

    A right response of one token and three wrong ones of two tokens:

    >>> rewards_NG = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    >>> mask_RT = torch.tensor([[True, False], [True, True], [True, True], [True, True]])
    >>> def example(spec, **annotations):
    ...     inputs = ObjectiveInputs(rewards_NG, torch.ones_like(rewards_NG, dtype=torch.bool), mask_RT, **annotations)
    ...     return credit(Term(credit=spec), inputs, torch.tensor([[0, 1]]))[:, 0]
    >>> example(Advantage(baseline="none"))
    tensor([1., 0., 0., 0.])
    >>> example(Advantage(baseline="mean"))
    tensor([ 0.7500, -0.2500, -0.2500, -0.2500])
    >>> example(Advantage(baseline="leave-one-out"))
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    >>> example(Advantage(baseline="length-weighted"))  # b = 1 / (1 + 2 + 2 + 2)
    tensor([ 0.8571, -0.1429, -0.1429, -0.1429])
    >>> example(Advantage(baseline="greedy"), greedy_N=torch.tensor([1.0]))
    tensor([ 0., -1., -1., -1.])
    >>> example(Advantage(baseline="critic"), values_RT=torch.full((4, 2), 0.5))  # of the first token
    tensor([ 0.5000, -0.4750, -0.4750, -0.4750])
    >>> example(Advantage(scale="group"))  # over 0.5 + 1e-4
    tensor([ 1.4997, -0.4999, -0.4999, -0.4999])
    >>> example(Advantage(scale="mean"))  # over 0.25
    tensor([ 3., -1., -1., -1.])
    >>> example(Advantage(scale="batch"))  # 0.75 once and -0.25 six times, minus their mean, over their deviation
    tensor([ 2.4495, -0.4082, -0.4082, -0.4082])
    >>> example(Advantage(scale="task"))  # of a single task: the same
    tensor([ 2.4495, -0.4082, -0.4082, -0.4082])
    >>> of_two = {"components_KNG": torch.stack([rewards_NG, 1 - rewards_NG]), "component_weights_K": torch.ones(2)}
    >>> example(Advantage(scale="group", combine="normalise-then-sum"), **of_two)  # the two rewards cancel
    tensor([0., 0., 0., 0.])
    >>> turns = {"turns_RT": torch.tensor([[0, 0], [0, 1], [0, 1], [0, 1]])}  # of which the third is paid 0.5 for one
    >>> turns |= {"turn_rewards_RM": torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, -0.5], [0.0, 0.0]])}
    >>> inputs = ObjectiveInputs(rewards_NG, torch.ones_like(rewards_NG, dtype=torch.bool), mask_RT, **turns)
    >>> credit(Term(credit=Advantage(level="turn")), inputs, torch.empty(0, 2))  # b = 1/4, and -0.5/4 of second turns
    tensor([[ 0.7500,  0.7500],
            [-0.2500,  0.1250],
            [-0.2500, -0.3750],
            [-0.2500,  0.1250]])
    >>> example(Best())
    tensor([1., 0., 0., 0.])
    >>> example(Marginal())
    tensor([1., 0., 0., 0.])
    >>> example(PassAtK(k=2))
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    >>> example(Threshold(at=1.0))
    tensor([1., 0., 0., 0.])
    >>> example(Label(at=1.0))
    tensor([ 1., -1., -1., -1.])
    >>> example(One())
    tensor([1., 1., 1., 1.])
    >>> half = {"teacher_RT": torch.full((4, 2), 0.25).log(), "old_RT": torch.full((4, 2), 0.5).log()}
    >>> example(Teacher(), **half)  # of the first token, which the teacher finds half as likely as the policy
    tensor([-0.6931, -0.6931, -0.6931, -0.6931])
    >>> example(Teacher(discount=1.0), **half)  # and of the second one, where there is one
    tensor([-0.6931, -1.3863, -1.3863, -1.3863])
    >>> example(Chosen())  # of the only pair, the first response
    tensor([1., 0., 0., 0.])

    Args:
        term: which credit; bound to the functions of plugins (`Algorithms.bind`).
        inputs: rewards and annotations of the whole batch.
        pairs_P2: rows of the chosen and the rejected response of each pair, for `chosen`.

    Raises:
        ValueError: an annotation is missing, a plugin's credit is not bound to its function, or that function returns
            something else than one finite value per valid response.
    """
    rewards_NG = masked(inputs.rewards_NG, inputs.valid_NG)
    match term.credit:
        case Advantage():
            credit_RT = _advantage(term.credit, term, inputs)
        case Best():
            credit_RT = _best(rewards_NG, inputs.valid_NG).reshape(-1, 1)
        case Marginal():
            credit_RT = _marginal(rewards_NG, inputs.valid_NG).reshape(-1, 1)
        case PassAtK():
            credit_RT = _pass_at_k(term.credit, rewards_NG, inputs.valid_NG).reshape(-1, 1)
        case Threshold():
            credit_RT = (rewards_NG >= term.credit.at).to(rewards_NG.dtype).reshape(-1, 1)
        case Label():
            good_NG = (rewards_NG >= term.credit.at).to(rewards_NG.dtype)
            credit_RT = (2 * good_NG - 1).reshape(-1, 1)
        case One():
            credit_RT = torch.ones_like(rewards_NG).reshape(-1, 1)
        case Chosen():
            credit_RT = torch.zeros_like(rewards_NG).reshape(-1, 1)
            credit_RT[pairs_P2[:, 0]] = 1
        case Teacher():
            return _teacher_credit(term.credit, inputs)
        case CustomCredit():
            raise ValueError(f"the credit {term.credit.name!r} is not bound to its function (Algorithms.bind)")
        case function:
            credit_RT = _check_returned(function(rewards_NG, inputs.valid_NG), inputs.valid_NG).reshape(-1, 1)
    return masked(credit_RT, inputs.valid_R[:, None].expand_as(credit_RT))


def _teacher_credit(spec: Teacher, inputs: ObjectiveInputs) -> Tensor:
    """(R, T) c_t = sum_{s >= t} discount^(s - t) (log pi_T - log pi)_s over the policy's tokens.

    Under the policy, sum_t c_t grad log pi_t is in expectation minus the gradient of the reverse KL: with discount 1 of
    KL(pi || pi_T) over whole responses; with 0 of the sum over positions of KL(pi || pi_T) of the next token, the
    prefixes taken as they come. A policy that gives a token 0.5 and its teacher 0.25: credit log 0.5 = -0.69.
    """
    why = "a teacher's credit"
    difference_RT = inputs.needed("teacher_RT", why) - inputs.needed("old_RT", why)
    difference_RT = masked(difference_RT.to(inputs.rewards_NG), inputs.mask_RT)
    if spec.discount == 0.0:
        return difference_RT
    credit_RT, ahead_R = torch.zeros_like(difference_RT), torch.zeros_like(difference_RT[:, 0])
    for t in reversed(range(difference_RT.shape[1])):
        here_R = difference_RT[:, t] + spec.discount * ahead_R
        ahead_R = torch.where(inputs.mask_RT[:, t], here_R, ahead_R)
        credit_RT[:, t] = masked(ahead_R, inputs.mask_RT[:, t])
    return credit_RT


def informative(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """(N,) bool: groups with at least two valid responses whose rewards differ.

    >>> rewards_NG = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    >>> informative(rewards_NG, torch.tensor([[True, True], [True, True], [True, False]]))
    tensor([ True, False, False])
    """
    high_N = rewards_NG.masked_fill(~valid_NG, -torch.inf).amax(dim=1)
    low_N = rewards_NG.masked_fill(~valid_NG, torch.inf).amin(dim=1)
    return (valid_NG.sum(dim=1) >= 2) & (high_N > low_N)


def returns_and_advantages(spec: Advantage, kl: KL, inputs: ObjectiveInputs) -> tuple[Tensor, Tensor]:
    """(R, T) returns and generalised advantage estimates (1506.02438) over the policy's tokens.

        delta_t = r_t + gamma V_{t+1} - V_t,    A_t = delta_t + gamma trace A_{t+1},    return_t = A_t + V_t

    r is the reward at the last token, minus the KL penalty at each token; V after the last token is 0. Tokens that the
    policy did not write are passed over. With `trace_scale` the advantages' trace depends on the response's length, and
    the returns, on which the critic is trained, have a trace of 1 (2504.05118).

    A response of two tokens with the reward 1 and the values 0.5 and 0.8: delta = 0.8 - 0.5, 1 - 0.8.

    >>> mask_RT = torch.ones(1, 2, dtype=torch.bool)
    >>> inputs = ObjectiveInputs(torch.ones(1, 1), mask_RT[:, :1], mask_RT, values_RT=torch.tensor([[0.5, 0.8]]))
    >>> returns_RT, advantages_RT = returns_and_advantages(Advantage(baseline="critic", trace=0.5), KL(), inputs)
    >>> advantages_RT  # 0.3 + 0.5 * 0.2, 0.2
    tensor([[0.4000, 0.2000]])
    >>> returns_RT
    tensor([[0.9000, 1.0000]])

    Raises:
        ValueError: the batch has no values, or no log-probabilities for the KL.
    """
    values_RT = masked(inputs.needed("values_RT", "a critic as baseline"), inputs.mask_RT).to(inputs.rewards_NG)
    mask_RT = inputs.mask_RT
    rewards_RT = torch.zeros_like(values_RT)
    rows = torch.arange(len(mask_RT))
    last_R = mask_RT.shape[1] - 1 - mask_RT.flip(1).to(torch.int64).argmax(dim=1)
    rewards_RT[rows, last_R] = masked(inputs.rewards_NG, inputs.valid_NG).flatten()
    penalty_RT = reward_penalty(kl, inputs)
    if penalty_RT is not None:
        rewards_RT = rewards_RT - penalty_RT
    if spec.trace_scale is None:
        advantages_RT = _generalised_advantages(rewards_RT, values_RT, mask_RT, spec.discount, spec.trace)
        return advantages_RT + values_RT, advantages_RT
    lengths_R = inputs.lengths_R.to(values_RT).clamp(min=1)
    trace_R = (1 - 1 / (spec.trace_scale * lengths_R)).clamp(min=0)
    advantages_RT = _generalised_advantages(rewards_RT, values_RT, mask_RT, spec.discount, trace_R)
    return _generalised_advantages(rewards_RT, values_RT, mask_RT, spec.discount, 1.0) + values_RT, advantages_RT


def _generalised_advantages(
    rewards_RT: Tensor, values_RT: Tensor, mask_RT: Tensor, discount: float, trace_R: Tensor | float
) -> Tensor:
    """(R, T) generalised advantage estimates, 0 where the policy did not write."""
    advantages_RT = torch.zeros_like(values_RT)
    advantage_R, next_R = torch.zeros_like(values_RT[:, 0]), torch.zeros_like(values_RT[:, 0])
    for t in reversed(range(values_RT.shape[1])):
        delta_R = rewards_RT[:, t] + discount * next_R - values_RT[:, t]
        here_R = mask_RT[:, t]
        advantage_R = torch.where(here_R, delta_R + discount * trace_R * advantage_R, advantage_R)
        next_R = torch.where(here_R, values_RT[:, t], next_R)
        advantages_RT[:, t] = masked(advantage_R, here_R)
    return advantages_RT


def _advantage(spec: Advantage, term: Term, inputs: ObjectiveInputs) -> Tensor:
    if spec.combine == "normalise-then-sum":
        components_KNG = inputs.needed("components_KNG", "normalise-then-sum")
        weights_K = inputs.needed("component_weights_K", "normalise-then-sum")
        parts = [_normalise_in_group(spec, masked(part_NG, inputs.valid_NG), inputs) for part_NG in components_KNG]
        total_NG = sum((w * part for w, part in zip(weights_K, parts, strict=True)), torch.zeros_like(parts[0]))
        return _normalise_in_tasks(total_NG.reshape(-1, 1), inputs)
    credit_RT = _unscaled_credit(spec, term, inputs)
    if spec.scale == "task":
        return _normalise_in_tasks(credit_RT, inputs)
    return _normalise_in_batch(credit_RT, inputs) if spec.scale == "batch" else credit_RT


def _unscaled_credit(spec: Advantage, term: Term, inputs: ObjectiveInputs) -> Tensor:
    """Credit before the batch's scale. A KL penalty in the reward is paid token by token where credit is per token
    (critic, or no baseline: the return from each token on); a group's baseline compares whole responses, so there its
    sum is taken off the response's reward."""
    if spec.baseline == "critic":
        return returns_and_advantages(spec, term.kl, inputs)[1]
    rewards_NG = masked(inputs.rewards_NG, inputs.valid_NG)
    penalty_RT = reward_penalty(term.kl, inputs)
    if penalty_RT is not None:
        penalty_RT = penalty_RT.to(rewards_NG)
        if spec.baseline == "none" and spec.scale not in ("group", "mean") and spec.level == "response":
            return rewards_NG.reshape(-1, 1) - penalty_RT.flip(1).cumsum(dim=1).flip(1)
        rewards_NG = masked(rewards_NG - penalty_RT.sum(dim=1).reshape(rewards_NG.shape), inputs.valid_NG)
    if spec.level == "turn" and inputs.turn_rewards_RM is not None:
        return _turn_credit(spec, rewards_NG, inputs)
    return _normalise_in_group(spec, rewards_NG, inputs).reshape(-1, 1)


def _turn_credit(spec: Advantage, rewards_NG: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """(R, T) credit of the turn that each token is in: of the return from that turn on, compared across the group.

        G_{i,m} = R_i - sum_{k < m} r_{i,k},    c_{i,t} = (G_{i,m} - b_m) / s_m    for a token t of turn m

    R_i is the total reward and r_{i,k} the part of it that the environment gave after turn k, so that G_{i,m} is what
    turn m and all after it still bring. b_m and s_m are those of the group's returns G_{.,m}, as for whole responses; a
    response that has ended by then has what was given at its end. A turn that was cut was not answered, so nothing was
    given after it. Without rewards of turns it is the credit of whole responses. Two responses of two turns, paid 1
    after the first and 1 after the second turn: returns 1 and 1 from the first turn on, 0 and 1 from the second, so
    credit 0 and 0 for the first, -0.5 and 0.5 for the second.
    """
    given_RM = inputs.needed("turn_rewards_RM", "credit by turn").to(rewards_NG)
    turn_rewards_RM = torch.nn.functional.pad(given_RM, (0, 1))  # after the last reward: for turns that were cut
    turns_RT = inputs.needed("turns_RT", "credit by turn").clamp(0, turn_rewards_RM.shape[1] - 1)
    before_RM = turn_rewards_RM.cumsum(dim=1) - turn_rewards_RM
    size_R = rewards_NG.flatten().abs() + turn_rewards_RM.abs().sum(dim=1)
    credit_RM = torch.stack(
        [
            _normalise_in_group(
                spec, masked(_remaining_rewards(rewards_NG, before_R, size_R), inputs.valid_NG), inputs
            ).flatten()
            for before_R in before_RM.unbind(dim=1)
        ],
        dim=1,
    )
    return credit_RM.gather(1, turns_RT.to(credit_RM.device))


def _remaining_rewards(rewards_NG: Tensor, before_R: Tensor, size_R: Tensor) -> Tensor:
    """(N, G) rewards less what was given before, exactly 0 where the difference is no more than rounding of numbers of
    this size: the scale `mean` would divide one rounding error by another."""
    left_R = rewards_NG.flatten() - before_R
    rounding_R = 16 * torch.finfo(left_R.dtype).eps * size_R
    return masked(left_R, left_R.abs() > rounding_R).reshape(rewards_NG.shape)


def _normalise_in_group(spec: Advantage, rewards_NG: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """(R - b) / s with b and s over the group's valid responses.

    mean:             b = mean_j R_j
    leave-one-out:    b_i = mean_{j != i} R_j, so that R_i - b_i = n / (n - 1) (R_i - mean)    (2402.14740)
    length-weighted:  b = sum_j len_j R_j / sum_j len_j                                        (2505.23585)
    greedy:           b = reward of a greedy response to the same problem                      (2310.10505)
    scale group:      s = sqrt(sum_j (R_j - mean)^2 / (n - 1)) + 1e-4                          (2402.03300)
    scale mean:       s = mean_j R_j; where it is not above 0 the credit is 0                  (2602.02710)

    Rewards 1, 0, 0, 0 with baseline and scale `mean`: credit 3, -1, -1, -1.
    """
    valid_NG = inputs.valid_NG
    count_N1 = valid_NG.sum(dim=1, keepdim=True).to(rewards_NG.dtype)
    mean_N1 = rewards_NG.sum(dim=1, keepdim=True) / count_N1.clamp(min=1)
    centred_NG = masked(rewards_NG - mean_N1, valid_NG)
    others_N1 = (count_N1 - 1).clamp(min=1)
    match spec.baseline:
        case "none":
            credit_NG = rewards_NG
        case "mean":
            credit_NG = centred_NG
        case "leave-one-out":
            credit_NG = centred_NG * count_N1 / others_N1
        case "length-weighted":
            lengths_NG = masked(inputs.lengths_R.reshape(valid_NG.shape).to(rewards_NG), valid_NG)
            weighted_N1 = (lengths_NG * rewards_NG).sum(dim=1, keepdim=True)
            credit_NG = masked(rewards_NG - weighted_N1 / lengths_NG.sum(dim=1, keepdim=True).clamp(min=1), valid_NG)
        case "greedy":
            greedy_N1 = inputs.needed("greedy_N", "a greedy baseline")[:, None]
            credit_NG = masked(rewards_NG - greedy_N1, ~greedy_N1.isnan().expand_as(rewards_NG))
        case "critic":
            raise ValueError("a critic's credit is per token; it cannot be computed for each reward apart")
    if spec.scale == "group":
        credit_NG = credit_NG / ((centred_NG.square().sum(dim=1, keepdim=True) / others_N1).sqrt() + GROUP_EPSILON)
    if spec.scale == "mean":
        credit_NG = masked(credit_NG / mean_N1, (mean_N1 > 0).expand_as(credit_NG))
    if spec.baseline not in GROUP_BASELINES and spec.scale not in ("group", "mean"):
        return credit_NG
    return credit_NG * informative(rewards_NG, valid_NG)[:, None]


def _normalise_in_batch(credit_RT: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """Minus the mean and over the standard deviation, both over all tokens of valid responses; 0 if all are equal."""
    counted_RT = inputs.mask_RT & inputs.valid_R[:, None]
    tokens_RT = credit_RT.expand(counted_RT.shape)
    values_S = tokens_RT[counted_RT]
    if values_S.numel() == 0 or bool(values_S.amax() == values_S.amin()):
        return torch.zeros_like(credit_RT)
    deviation = (values_S - values_S.mean()).square().mean().sqrt()
    return (credit_RT - values_S.mean()) / (deviation + BATCH_EPSILON)


def _normalise_in_tasks(credit_RT: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """`_normalise_in_batch` over each task's responses alone: no reward of one task is in the mean or the deviation of
    another, and a task whose responses all have the same credit gives none."""
    if inputs.tasks_N is None:
        return _normalise_in_batch(credit_RT, inputs)
    normalised_RT = torch.zeros_like(credit_RT)
    for task in range(int(inputs.tasks_N.max()) + 1):
        rows_R = (inputs.tasks_N == task).repeat_interleave(inputs.rewards_NG.shape[1])
        of_task = replace(inputs, valid_NG=inputs.valid_NG & (inputs.tasks_N == task)[:, None])
        normalised_RT = torch.where(rows_R[:, None], _normalise_in_batch(credit_RT, of_task), normalised_RT)
    return normalised_RT


def _check_returned(credit_NG: object, valid_NG: Tensor) -> Tensor:
    """What a plugin's function returned."""
    if not isinstance(credit_NG, Tensor) or credit_NG.shape != valid_NG.shape:
        raise ValueError(
            f"a credit must return one value per response, shape {tuple(valid_NG.shape)}; got {credit_NG!r}"
        )
    if not bool(credit_NG[valid_NG].isfinite().all()):
        raise ValueError(f"a credit must be finite for valid responses; got {credit_NG!r}")
    return credit_NG


def _best(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    winner_N = rewards_NG.masked_fill(~valid_NG, -torch.inf).argmax(dim=1)
    chosen_NG = torch.nn.functional.one_hot(winner_N, rewards_NG.shape[1]).to(rewards_NG.dtype)
    return chosen_NG * informative(rewards_NG, valid_NG)[:, None]


def _marginal(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """max_j R_j - max_{j != i} R_j: rewards 3, 1, 0 give 2, 0, 0; two best responses give 0 to all."""
    known_NG = rewards_NG.masked_fill(~valid_NG, -torch.inf)
    best_N2 = known_NG.topk(min(2, known_NG.shape[1]), dim=1).values
    lead_N1 = best_N2[:, :1] - best_N2[:, -1:]
    return masked(lead_N1, informative(rewards_NG, valid_NG)[:, None]) * (known_NG == best_N2[:, :1])


def _pass_at_k(spec: PassAtK, rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """Of n responses w are wrong; a subset of k passes with probability p = 1 - C(w, k) / C(n, k), s = sqrt(p (1 - p)).

        right responses: (1 - p) / s        wrong ones: (1 - p - C(w - 1, k - 1) / C(n - 1, k - 1)) / s

    0 where every subset passes or none does, and where fewer than k responses are valid. With 1 of 4 right and k = 2:
    p = 1/2, credit 1 and -1/3 for each of the others. k = 1: (R - p) / sqrt(p (1 - p)).
    """
    credit_NG = torch.zeros_like(rewards_NG)
    right_NG = valid_NG & (rewards_NG >= spec.at)
    for row, (n, right) in enumerate(zip(valid_NG.sum(dim=1).tolist(), right_NG.sum(dim=1).tolist(), strict=True)):
        wrong = n - right
        passing = 1 - math.comb(wrong, spec.k) / math.comb(n, spec.k) if n >= spec.k else 0.0
        if not 0.0 < passing < 1.0:
            continue
        deviation = math.sqrt(passing * (1 - passing))
        others_wrong = math.comb(wrong - 1, spec.k - 1) / math.comb(n - 1, spec.k - 1)
        credit_NG[row] = (1 - passing - others_wrong) / deviation
        credit_NG[row, right_NG[row]] = (1 - passing) / deviation
    return masked(credit_NG, valid_NG)
