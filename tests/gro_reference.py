"""Every preset as its formula says it, in loops over single tokens: what `reasoner.gro` is compared with.

Nothing here imports `reasoner.gro`. A loss is a function of a `Case`; autograd on it gives dL/dl, and the weight of a
token is w = -dL/dl. Indices: n group, g place in its group, i = n G + g response, t token. Only tokens that the policy
wrote and only responses that were scored count, wherever a sum or a mean is written below.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A batch of N groups of G responses."""

    l: list[list[Tensor]]  # noqa: E741
    """log-probabilities under the policy that is trained; 0-dim float64 leaves"""
    old: list[list[float]]
    reference: list[list[float]]
    sampler: list[list[float]]
    mask: list[list[bool]]
    """the policy wrote the token"""
    rewards: list[list[float | None]]
    """per group; None: abstained"""
    greedy: list[float | None]
    """reward of each group's greedy response"""
    values: list[list[float]]
    """the critic's value before each token"""
    max_tokens: int
    truncated: list[bool]
    entropies: list[list[float]]
    """of the policy that is trained, before each token"""
    teacher: list[list[float]] = field(default_factory=list)
    z0: float | None = None
    """KTO's estimate of the KL to the reference, where it is not taken from the batch"""


@dataclass(frozen=True)
class Penalty:
    """coefficient * KL to the reference, in the loss or in the reward."""

    coefficient: float
    estimator: str
    place: str


@dataclass(frozen=True)
class Gap:
    """Correction for the gap between sampler and learner."""

    kind: str
    level: str
    low: float = 0.5
    high: float = 2.0


@dataclass(frozen=True)
class Variant:
    """What may be added to a preset on fresh groups."""

    kl: Penalty | None = None
    """None: the preset's own"""
    gap: Gap = field(default_factory=lambda: Gap("none", "token"))
    mask_truncated: bool = False
    rows: tuple[int, ...] | None = None
    """responses of the mini-batch, over which Z is taken; credit is still the batch's. None: all"""


PLAIN = Variant()
NO_KL = Penalty(0.0, "k2", "loss")
Value = Callable[[int, int], Tensor]
Aggregate = Callable[[Case, Sequence[int], Value], Tensor]


def zero() -> Tensor:
    """0, the loss of a batch that says nothing."""
    return torch.zeros((), dtype=torch.float64)


def group_of(case: Case, i: int) -> int:
    """The n of response i."""
    return i // len(case.rewards[0])


def reward(case: Case, i: int) -> float | None:
    """R_i."""
    return case.rewards[group_of(case, i)][i % len(case.rewards[0])]


def scored(case: Case) -> list[int]:
    """Responses that did not abstain."""
    return [i for i in range(len(case.l)) if reward(case, i) is not None]


def counted(case: Case, variant: Variant) -> list[int]:
    """Responses that count in Z."""
    whole = [i for i in scored(case) if not (variant.mask_truncated and case.truncated[i])]
    return whole if variant.rows is None else [i for i in whole if i in variant.rows]


def tokens(case: Case, i: int) -> list[int]:
    """The policy's tokens of a response."""
    return [t for t in range(len(case.l[i])) if case.mask[i][t]]


def number(value: float | None) -> float:
    """A reward that is known to be there."""
    assert value is not None
    return value


def token_mean(case: Case, ids: Sequence[int], value: Value) -> Tensor:
    """Over all tokens."""
    count = sum(len(tokens(case, i)) for i in ids)
    total = zero()
    for i in ids:
        for t in tokens(case, i):
            total = total + value(i, t)
    return total / count if count else zero()


def response_mean(case: Case, ids: Sequence[int], value: Value) -> Tensor:
    """Over the tokens of each response, then over responses."""
    total = zero()
    for i in ids:
        own = zero()
        for t in tokens(case, i):
            own = own + value(i, t)
        total = total + own / len(tokens(case, i))
    return total / len(ids) if ids else zero()


def response_sum(case: Case, ids: Sequence[int], value: Value) -> Tensor:
    """The sum over the tokens of each response, their mean over responses."""
    total = zero()
    for i in ids:
        for t in tokens(case, i):
            total = total + value(i, t)
    return total / len(ids) if ids else zero()


def constant(case: Case, ids: Sequence[int], value: Value) -> Tensor:
    """The sum over all tokens, over max_tokens for every response."""
    return response_sum(case, ids, value) / case.max_tokens


def estimate(estimator: str, u: Tensor) -> Tensor:
    """k1, k2 or k3 of u = l - l_ref."""
    return {"k1": u, "k2": u**2 / 2, "k3": torch.exp(-u) - 1 + u}[estimator]


def old_kl(case: Case, i: int, t: int, estimator: str) -> float:
    """The estimate under the old policy, as the reward sees it."""
    return float(estimate(estimator, torch.tensor(case.old[i][t] - case.reference[i][t], dtype=torch.float64)))


def rho(case: Case, i: int, t: int, kind: str, level: str, low: float, high: float) -> float:
    """Corrected importance weight of a token for the gap between sampler and learner."""
    if kind == "none":
        return 1.0
    gaps = {j: case.old[i][j] - case.sampler[i][j] for j in tokens(case, i)}
    exponents = {
        "token": gaps[t],
        "sequence": sum(gaps.values()),
        "geometric": sum(gaps.values()) / len(gaps),
    }
    weight = math.exp(exponents[level])
    if kind == "truncate":
        return min(weight, high)
    assert kind == "mask"
    return weight if low <= weight <= high else 0.0


def penalised_rewards(case: Case, kl: Penalty) -> dict[int, float]:
    """R_i - beta sum_t k_t, KL in the reward; else R_i."""
    rewards = {}
    for i in scored(case):
        rewards[i] = number(reward(case, i))
        if kl.place == "reward":
            rewards[i] -= kl.coefficient * sum(old_kl(case, i, t, kl.estimator) for t in tokens(case, i))
    return rewards


def compared(case: Case, rewards: Mapping[int, float], how: Callable[[float, list[float]], float]) -> dict[int, float]:
    """how(R_i, the others' rewards) in each group with two different rewards or more; 0 in the others."""
    credit = {}
    for i in rewards:
        mates = [j for j in rewards if group_of(case, j) == group_of(case, i)]
        alike = len({rewards[j] for j in mates}) < 2
        credit[i] = 0.0 if alike else how(rewards[i], [rewards[j] for j in mates if j != i])
    return credit


def minus_mean(case: Case, kl: Penalty) -> dict[int, float]:
    """R_i - mean_j R_j."""
    return compared(case, penalised_rewards(case, kl), lambda mine, others: mine - _mean([mine, *others]))


def minus_others(case: Case, kl: Penalty) -> dict[int, float]:
    """R_i - mean_{j != i} R_j."""
    return compared(case, penalised_rewards(case, kl), lambda mine, others: mine - _mean(others))


def over_group_std(case: Case, kl: Penalty) -> dict[int, float]:
    """(R_i - mean_j R_j) / (unbiased standard deviation + 1e-4)."""

    def how(mine: float, others: list[float]) -> float:
        group = [mine, *others]
        mean = _mean(group)
        variance = sum((r - mean) ** 2 for r in group) / (len(group) - 1)
        return (mine - mean) / (math.sqrt(variance) + 1e-4)

    return compared(case, penalised_rewards(case, kl), how)


def minus_greedy(case: Case, kl: Penalty) -> dict[int, float]:
    """R_i minus the reward of the group's greedy response; 0 where that one abstained."""
    credit = {}
    for i, own in penalised_rewards(case, kl).items():
        base = case.greedy[group_of(case, i)]
        credit[i] = 0.0 if base is None else own - base
    return credit


def rewards_to_go(case: Case, kl: Penalty) -> dict[tuple[int, int], float]:
    """R_i - beta sum_{j >= t} k_j, per token."""
    credit = {}
    for i in scored(case):
        for t in tokens(case, i):
            later = [old_kl(case, i, j, kl.estimator) for j in tokens(case, i) if j >= t]
            beta = kl.coefficient if kl.place == "reward" else 0.0
            credit[i, t] = number(reward(case, i)) - beta * sum(later)
    return credit


def gae(case: Case, kl: Penalty, gamma: float = 1.0, trace: float = 0.95) -> dict[tuple[int, int], float]:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t; 1506.02438."""
    credit = {}
    for i in scored(case):
        own = tokens(case, i)
        deltas = []
        for k, t in enumerate(own):
            r = -kl.coefficient * old_kl(case, i, t, kl.estimator) if kl.place == "reward" else 0.0
            last = k == len(own) - 1
            if last:
                r += number(reward(case, i))
            after = 0.0 if last else case.values[i][own[k + 1]]
            deltas.append(r + gamma * after - case.values[i][t])
        for k, t in enumerate(own):
            credit[i, t] = sum((gamma * trace) ** (m - k) * deltas[m] for m in range(k, len(own)))
    return credit


def per_token(case: Case, credit: Mapping[int, float]) -> dict[tuple[int, int], float]:
    """A response's credit for each of its tokens."""
    return {(i, t): c for i, c in credit.items() for t in tokens(case, i)}


def whitened(credit: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Minus the mean, over the population standard deviation + 1e-8, over tokens; zeros where all are equal."""
    if len(set(credit.values())) < 2:
        return dict.fromkeys(credit, 0.0)
    mean = _mean(list(credit.values()))
    std = math.sqrt(_mean([(c - mean) ** 2 for c in credit.values()]))
    return {key: (c - mean) / (std + 1e-8) for key, c in credit.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def clipped(u: Tensor, c: float, low: float, high: float, dual: float | None = None) -> Tensor:
    """min(r c, clamp(r, 1 - low, 1 + high) c), r = e^u; c < 0 and a dual: no less than dual c."""
    r = torch.exp(u)
    inside = r if 1 - low <= r.item() <= 1 + high else torch.full_like(r, 1 - low if r.item() < 1 else 1 + high)
    value = r * c if (r * c).item() <= (inside * c).item() else inside * c
    if dual is not None and c < 0 and value.item() < dual * c:
        return torch.full_like(value, dual * c)
    return value


def log_sigmoid(u: Tensor) -> Tensor:
    """log 1 / (1 + e^-u)."""
    return -torch.log1p(torch.exp(-u))


def on_tokens(case: Case, variant: Variant, kl: Penalty, aggregate: Aggregate, link: Value) -> Tensor:
    """-aggregate(rho link) + beta aggregate(k), the latter without a correction."""
    ids, gap = counted(case, variant), variant.gap
    loss = -aggregate(case, ids, lambda i, t: rho(case, i, t, gap.kind, gap.level, gap.low, gap.high) * link(i, t))
    return loss + in_loss(case, ids, kl, aggregate)


def in_loss(case: Case, ids: Sequence[int], kl: Penalty, aggregate: Aggregate) -> Tensor:
    """beta aggregate(k) of a KL in the loss; else 0."""
    if kl.place == "reward" or not kl.coefficient:
        return zero()
    k = aggregate(case, ids, lambda i, t: estimate(kl.estimator, case.l[i][t] - case.reference[i][t]))
    return kl.coefficient * k


def log_ratio(case: Case, i: int, t: int) -> Tensor:
    """l - l_old."""
    return case.l[i][t] - case.old[i][t]


def reinforce(case: Case, variant: Variant = PLAIN) -> Tensor:
    """R_i sum_t l; Williams 1992."""
    kl = variant.kl or NO_KL
    credit = rewards_to_go(case, kl)
    return on_tokens(case, variant, kl, response_sum, lambda i, t: credit[i, t] * log_ratio(case, i, t))


def rloo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """(R_i - mean of the others) sum_t l; 2402.14740."""
    kl = variant.kl or NO_KL
    credit = minus_others(case, kl)
    return on_tokens(case, variant, kl, response_sum, lambda i, t: credit[i] * log_ratio(case, i, t))


def remax(case: Case, variant: Variant = PLAIN) -> Tensor:
    """(R_i - R_greedy) sum_t l; 2310.10505."""
    kl = variant.kl or NO_KL
    credit = minus_greedy(case, kl)
    return on_tokens(case, variant, kl, response_sum, lambda i, t: credit[i] * log_ratio(case, i, t))


def reinforce_plus_plus(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Rewards to go with k1 inside, whitened over the batch's tokens; 2501.03262."""
    kl = variant.kl or Penalty(0.01, "k1", "reward")
    credit = whitened(rewards_to_go(case, kl))
    return on_tokens(case, variant, kl, token_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i, t], 0.2, 0.2))


def reinforce_plus_plus_baseline(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Minus the group's mean, then whitened over the batch's tokens; k2 in the loss; 2501.03262."""
    kl = variant.kl or Penalty(0.01, "k2", "loss")
    credit = whitened(per_token(case, minus_mean(case, kl)))
    return on_tokens(case, variant, kl, token_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i, t], 0.2, 0.2))


def ppo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Whitened generalised advantage estimates; 1707.06347."""
    kl = variant.kl or Penalty(0.0, "k1", "reward")
    credit = whitened(gae(case, kl))
    return on_tokens(case, variant, kl, token_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i, t], 0.2, 0.2))


def grpo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Group-normalised rewards, mean per response; 2402.03300."""
    kl = variant.kl or NO_KL
    credit = over_group_std(case, kl)
    return on_tokens(case, variant, kl, response_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i], 0.2, 0.2))


def dr_grpo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Neither standard deviation nor length of the response; 2503.20783."""
    kl = variant.kl or NO_KL
    credit = minus_mean(case, kl)
    return on_tokens(case, variant, kl, constant, lambda i, t: clipped(log_ratio(case, i, t), credit[i], 0.2, 0.2))


def dapo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Clip-higher, mean over the batch's tokens; 2503.14476."""
    kl = variant.kl or NO_KL
    credit = over_group_std(case, kl)
    return on_tokens(case, variant, kl, token_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i], 0.2, 0.28))


def top_entropy(case: Case, variant: Variant = PLAIN, share: float = 0.2) -> Tensor:
    """DAPO's surrogate of the tokens whose entropy is among the highest fifth of their response's; Z counts all tokens;
    2506.01939, with the threshold per response."""
    kl = variant.kl or NO_KL
    credit = over_group_std(case, kl)

    def link(i: int, t: int) -> Tensor:
        higher = sum(case.entropies[i][j] > case.entropies[i][t] for j in tokens(case, i))
        if higher >= math.ceil(round(share * len(tokens(case, i)), 9)):
            return zero()
        return clipped(log_ratio(case, i, t), credit[i], 0.2, 0.28)

    return on_tokens(case, variant, kl, token_mean, link)


def cispo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """min(r, 5) c (l - l_old), no gradient through the first factor; 2506.13585."""
    kl = variant.kl or NO_KL
    credit = over_group_std(case, kl)

    def link(i: int, t: int) -> Tensor:
        u = log_ratio(case, i, t)
        return min(math.exp(u.item()), 5.0) * credit[i] * u

    return on_tokens(case, variant, kl, token_mean, link)


def gspo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """One ratio s_i = exp(mean_t (l - l_old)) per response; a KL in the loss as mean per response; 2507.18071."""
    kl = variant.kl or NO_KL
    credit = over_group_std(case, kl)
    ids, gap = counted(case, variant), variant.gap
    assert gap.kind == "none" or gap.level != "token"
    total = zero()
    for i in ids:
        weight = rho(case, i, tokens(case, i)[0], gap.kind, gap.level, gap.low, gap.high)
        total = total + weight * clipped(mean_of(case, i, case.old), credit[i], 3e-4, 4e-4)
    loss = -total / len(ids) if ids else zero()
    return loss + in_loss(case, ids, kl, response_mean)


def maxrl(case: Case, variant: Variant = PLAIN) -> Tensor:
    """(R_i - mean_j R_j) / mean_j R_j, 0 where the mean is not above 0; 2602.02710."""
    kl = variant.kl or NO_KL

    def how(mine: float, others: list[float]) -> float:
        mean = _mean([mine, *others])
        return (mine - mean) / mean if mean > 0 else 0.0

    credit = compared(case, penalised_rewards(case, kl), how)
    return on_tokens(case, variant, kl, token_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i], 0.2, 0.2))


def opo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """R_i - sum_j T_j R_j / sum_j T_j over the group, T tokens of the policy; 2505.23585."""
    kl = variant.kl or NO_KL
    rewards = penalised_rewards(case, kl)
    credit = {}
    for i in rewards:
        mates = [j for j in rewards if group_of(case, j) == group_of(case, i)]
        base = sum(len(tokens(case, j)) * rewards[j] for j in mates) / sum(len(tokens(case, j)) for j in mates)
        credit[i] = rewards[i] - base if len({rewards[j] for j in mates}) > 1 else 0.0
    return on_tokens(case, variant, kl, response_sum, lambda i, t: credit[i] * log_ratio(case, i, t))


def over_subsets(case: Case, k: int) -> dict[int, float]:
    """The credit of pass@k by counting every subset of k scored responses of a group; 2508.10751.

    A subset's reward is 1 when one of its responses is right. Its advantage is that reward minus the mean over the
    subsets, over their standard deviation; a response has the mean of its subsets' advantages.
    """
    credit = dict.fromkeys(scored(case), 0.0)
    for n in range(len(case.rewards)):
        own = [i for i in scored(case) if group_of(case, i) == n]
        subsets = list(itertools.combinations(own, k))
        passes = [1.0 if any(number(reward(case, i)) >= 1.0 for i in subset) else 0.0 for subset in subsets]
        if len(set(passes)) < 2:
            continue
        mean = _mean(passes)
        deviation = math.sqrt(_mean([(p - mean) ** 2 for p in passes]))
        for i in own:
            credit[i] = _mean(
                [(p - mean) / deviation for subset, p in zip(subsets, passes, strict=True) if i in subset]
            )
    return credit


def pass_at_k(case: Case, variant: Variant = PLAIN, k: int = 4) -> Tensor:
    """Credit over subsets of k; 2508.10751."""
    kl = variant.kl or NO_KL
    credit = over_subsets(case, k)
    return on_tokens(case, variant, kl, token_mean, lambda i, t: clipped(log_ratio(case, i, t), credit[i], 0.2, 0.2))


def best_of_n(case: Case, variant: Variant = PLAIN) -> Tensor:
    """(the group's best reward minus the best without response i) sum_t l; 2503.19595."""
    kl = variant.kl or NO_KL
    rewards = {i: number(reward(case, i)) for i in scored(case)}
    credit = compared(case, rewards, lambda mine, others: max([mine, *others]) - max(others))
    return on_tokens(case, variant, kl, response_sum, lambda i, t: credit[i] * log_ratio(case, i, t))


def sapo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """4 / tau s(tau (r - 1)) A, tau 1 for A > 0 and 1.05 for A < 0; 2511.20347."""
    kl = variant.kl or NO_KL
    credit = over_group_std(case, kl)

    def link(i: int, t: int) -> Tensor:
        tau = 1.0 if credit[i] > 0 else 1.05
        return 4 / tau / (1 + torch.exp(-tau * (torch.exp(log_ratio(case, i, t)) - 1))) * credit[i]

    return on_tokens(case, variant, kl, response_mean, link)


def on_responses(
    case: Case, variant: Variant, kl: Penalty, z: Callable[[int], float], value: Callable[[int], Tensor], k: Aggregate
) -> Tensor:
    """-sum_i z_i rho_i value_i, and a KL in the loss aggregated by k."""
    ids, gap = counted(case, variant), variant.gap
    assert gap.kind == "none" or gap.level != "token"
    total = zero()
    for i in ids:
        weight = rho(case, i, tokens(case, i)[0], gap.kind, gap.level, gap.low, gap.high)
        total = total + z(i) * weight * value(i)
    return -total + in_loss(case, ids, kl, k)


def gmpo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Geometric mean of the tokens' ratios, each held within e^0.4 on the side its credit pushes it to; 2507.20673."""
    kl = variant.kl or NO_KL
    credit, ids = over_group_std(case, kl), counted(case, variant)

    def value(i: int) -> Tensor:
        total = zero()
        for t in tokens(case, i):
            u = log_ratio(case, i, t)
            beyond = u.item() > 0.4 if credit[i] > 0 else u.item() < -0.4
            total = total + (math.copysign(0.4, credit[i]) if beyond else u)
        return torch.exp(total / len(tokens(case, i))) * credit[i]

    return on_responses(case, variant, kl, lambda _: 1 / len(ids), value, response_mean)


def luspo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """GSPO's surrogate of each response times its length; 2602.05261."""
    kl = variant.kl or NO_KL
    credit, ids = over_group_std(case, kl), counted(case, variant)

    def value(i: int) -> Tensor:
        return len(tokens(case, i)) * clipped(mean_of(case, i, case.old), credit[i], 2e-3, 2.5e-3)

    return on_responses(case, variant, kl, lambda _: 1 / len(ids), value, response_sum)


def vespo(case: Case, variant: Variant = PLAIN) -> Tensor:
    """phi(W) A sum_t l, phi(W) = W^k e^(lambda (1 - W)) without gradient, W = e^(sum_t u); (k, lambda) = (2, 3) for
    A > 0, (3, 2) for A < 0; mean over tokens; 2602.10693."""
    kl = variant.kl or NO_KL
    credit, ids = over_group_std(case, kl), counted(case, variant)
    count = sum(len(tokens(case, i)) for i in ids)

    def value(i: int) -> Tensor:
        u = sum_of(case, i, case.old)
        ratio = math.exp(u.item())
        k, rate = (2, 3) if credit[i] > 0 else (3, 2)
        return ratio**k * math.exp(rate * (1 - ratio)) * credit[i] * u

    return on_responses(case, variant, kl, lambda _: 1 / count, value, token_mean)


def topr(case: Case, variant: Variant = PLAIN) -> Tensor:
    """Right responses with weight 1, wrong ones with -min(W, 1) without gradient; 2503.14286."""
    kl = variant.kl or NO_KL
    ids = counted(case, variant)

    def value(i: int) -> Tensor:
        u = sum_of(case, i, case.old)
        return u if number(reward(case, i)) >= 1.0 else -min(math.exp(u.item()), 1.0) * u

    return on_responses(case, variant, kl, lambda _: 1 / len(ids), value, response_sum)


def dppo(case: Case, measure: str, limit: float) -> Tensor:
    """r A with r = p / p_mu, mu the sampler; nothing for a token that has left the trust region and is pushed farther:
    |p - p_mu| or the KL of the binary "this token or another" above the limit; 2602.04879."""
    credit = over_group_std(case, NO_KL)

    def link(i: int, t: int) -> Tensor:
        u = case.l[i][t] - case.sampler[i][t]
        p, q = math.exp(case.l[i][t].item()), math.exp(case.sampler[i][t])
        apart = abs(p - q) if measure == "tv" else q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        outward = (p > q) if credit[i] > 0 else (p < q)
        return zero() if apart > limit and outward else torch.exp(u) * credit[i]

    return -token_mean(case, scored(case), lambda i, t: link(i, t))


def vapo(case: Case) -> Tensor:
    """PPO with lambda = 1 - 1 / (0.05 T), clip-higher, and 0.1 of the likelihood of right responses; 2504.05118."""
    credit: dict[tuple[int, int], float] = {}
    for i in scored(case):
        trace = max(0.0, 1 - 1 / (0.05 * len(tokens(case, i))))
        credit |= {key: c for key, c in gae(case, NO_KL, trace=trace).items() if key[0] == i}
    credit = whitened(credit)
    policy = -token_mean(case, scored(case), lambda i, t: clipped(log_ratio(case, i, t), credit[i, t], 0.2, 0.28))
    right = [i for i in scored(case) if number(reward(case, i)) >= 1.0]
    return policy - 0.1 * token_mean(case, right, lambda i, t: case.l[i][t])


def sft(case: Case) -> Tensor:
    """Negative log-likelihood per token."""
    return -token_mean(case, scored(case), lambda i, t: case.l[i][t])


def opd(case: Case) -> Tensor:
    """r (log pi_T - log pi_old) of each token, clipped, of abstained responses too; mean over tokens; 2306.13649."""

    def link(i: int, t: int) -> Tensor:
        return clipped(log_ratio(case, i, t), case.teacher[i][t] - case.old[i][t], 0.2, 0.2)

    return -token_mean(case, range(len(case.l)), link)


def raft(case: Case) -> Tensor:
    """Negative log-likelihood per token of each group's best response; 2304.06767."""
    return -token_mean(case, [best for best, _ in mined(case)], lambda i, t: case.l[i][t])


def mined(case: Case) -> list[tuple[int, int]]:
    """(chosen, rejected): each group's best and worst response, the first of equals; none where all are equal."""
    pairs = []
    for n in range(len(case.rewards)):
        own = [i for i in scored(case) if group_of(case, i) == n]
        if not own:
            continue
        best = worst = own[0]
        for i in own[1:]:
            if number(reward(case, i)) > number(reward(case, best)):
                best = i
            if number(reward(case, i)) < number(reward(case, worst)):
                worst = i
        if number(reward(case, best)) > number(reward(case, worst)):
            pairs.append((best, worst))
    return pairs


def sum_of(case: Case, i: int, base: list[list[float]] | None = None, gamma: float = 1.0) -> Tensor:
    """sum_k gamma^k (l - base) over the policy's tokens."""
    total = zero()
    for k, t in enumerate(tokens(case, i)):
        total = total + gamma**k * (case.l[i][t] - (base[i][t] if base else 0.0))
    return total


def mean_of(case: Case, i: int, base: list[list[float]] | None = None) -> Tensor:
    """mean_t (l - base) over the policy's tokens."""
    return sum_of(case, i, base) / len(tokens(case, i))


def over_pairs(case: Case, loss: Callable[[int, int], Tensor]) -> Tensor:
    """Mean of loss(chosen, rejected)."""
    pairs = mined(case)
    total = zero()
    for good, bad in pairs:
        total = total + loss(good, bad)
    return total / len(pairs) if pairs else zero()


def dpo(case: Case, beta: float = 0.1, smoothing: float = 0.0) -> Tensor:
    """-log s(beta (D_w - D_l)); smoothing: that of cDPO; 2305.18290."""

    def loss(good: int, bad: int) -> Tensor:
        u = beta * (sum_of(case, good, case.reference) - sum_of(case, bad, case.reference))
        return -(1 - smoothing) * log_sigmoid(u) - smoothing * log_sigmoid(-u)

    return over_pairs(case, loss)


def ipo(case: Case, beta: float = 0.1) -> Tensor:
    """(difference of the mean log-ratios - 1 / (2 beta))^2; 2310.12036, mean for sum."""
    return over_pairs(
        case,
        lambda good, bad: (
            (mean_of(case, good, case.reference) - mean_of(case, bad, case.reference) - 1 / (2 * beta)) ** 2
        ),
    )


def simpo(case: Case, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """-log s(beta (mean l_w - mean l_l) - gamma); 2405.14734."""
    return over_pairs(case, lambda good, bad: -log_sigmoid(beta * (mean_of(case, good) - mean_of(case, bad)) - gamma))


def cpl(case: Case, alpha: float = 0.1, gamma: float = 1.0, bias: float = 0.5) -> Tensor:
    """-log s(alpha (sum gamma^t l_w - bias sum gamma^t l_l)); 2310.13639."""
    return over_pairs(
        case,
        lambda good, bad: (
            -log_sigmoid(alpha * (sum_of(case, good, gamma=gamma) - bias * sum_of(case, bad, gamma=gamma)))
        ),
    )


def slic(case: Case, delta: float = 1.0, reference: bool = False) -> Tensor:
    """max(0, delta - (sum l_w - sum l_l)); 2305.10425."""
    base = case.reference if reference else None
    return over_pairs(case, lambda good, bad: torch.relu(delta - sum_of(case, good, base) + sum_of(case, bad, base)))


def orpo(case: Case, weight: float = 0.1) -> Tensor:
    """Likelihood of the chosen responses, mean per response, and 0.1 of their log odds ratio; 2403.07691."""

    def log_odds(i: int) -> Tensor:
        p = torch.exp(mean_of(case, i))
        return torch.log(p / (1 - p))

    chosen = [good for good, _ in mined(case)]
    likelihood = -response_mean(case, chosen, lambda i, t: case.l[i][t])
    return likelihood + weight * over_pairs(case, lambda good, bad: -log_sigmoid(log_odds(good) - log_odds(bad)))


def cpo(case: Case, beta: float = 0.1) -> Tensor:
    """-log s(beta (sum l_w - sum l_l)) and the likelihood of the chosen, mean per token; 2401.08417."""
    likelihood = -token_mean(case, [good for good, _ in mined(case)], lambda i, t: case.l[i][t])
    return likelihood + over_pairs(
        case, lambda good, bad: -log_sigmoid(beta * (sum_of(case, good) - sum_of(case, bad)))
    )


def kto(case: Case, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Tensor:
    """-lambda_y s(y beta (D_i - z0)), y = 1 for a reward of 1 or more, else -1; 2402.01306 less its constant lambda_y.

    z0 is the case's; without one max(0, mean_i sum_t (l_sampler - l_ref)).
    """
    ids = scored(case)
    z0 = case.z0
    if z0 is None:
        sums = [sum(case.sampler[i][t] - case.reference[i][t] for t in tokens(case, i)) for i in ids]
        z0 = max(0.0, _mean(sums)) if sums else 0.0
    total = zero()
    for i in ids:
        good = number(reward(case, i)) >= 1.0
        u = beta * (sum_of(case, i, case.reference) - z0)
        value = desirable / (1 + torch.exp(-u)) if good else undesirable / (1 + torch.exp(u))
        total = total + value
    return -total / len(ids) if ids else zero()


class Fresh(Protocol):
    """A method on fresh groups."""

    def __call__(self, case: Case, variant: Variant = ..., /) -> Tensor: ...


FRESH: dict[str, Fresh] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "remax": remax,
    "reinforce++": reinforce_plus_plus,
    "reinforce++-baseline": reinforce_plus_plus_baseline,
    "ppo": ppo,
    "grpo": grpo,
    "dr-grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "top-entropy": top_entropy,
    "maxrl": maxrl,
    "opo": opo,
    "pass-at-k": pass_at_k,
    "best-of-n": best_of_n,
    "sapo": sapo,
    "gmpo": gmpo,
    "luspo": luspo,
    "vespo": vespo,
    "topr": topr,
}
"""methods on fresh groups; the plain preset without a variant"""
PAIRED: dict[str, Callable[[Case], Tensor]] = {
    "dpo": dpo,
    "ipo": ipo,
    "simpo": simpo,
    "cpl": cpl,
    "slic": slic,
    "orpo": orpo,
    "cpo": cpo,
}
"""methods on pairs, given or mined"""
REFERENCES: dict[str, Callable[[Case], Tensor]] = {
    **FRESH,
    **PAIRED,
    "raft": raft,
    "sft": sft,
    "kto": kto,
    "dppo-tv": lambda case: dppo(case, "tv", 0.2),
    "dppo-kl": lambda case: dppo(case, "kl", 0.05),
    "vapo": vapo,
    "opd": opd,
    "opsd": opd,
}
WITHOUT_REWARD = ("opd", "opsd")
"""methods that learn from responses that were not scored, too"""
DETACHED = ("cispo", "vespo", "topr")
"""methods with a factor of the policy through which no gradient flows: their weights are no slope of their loss"""
OF_RESPONSES = ("gspo", "gmpo", "luspo", "vespo", "topr")
"""methods whose unit is a response"""
OF_ONE_RESPONSE = ("reinforce", "remax", "topr")
"""methods on fresh groups that do not compare a response with its group"""


def weights(case: Case, loss: Tensor) -> list[list[float]]:
    """w = -dL/dl."""
    leaves = [l for row in case.l for l in row]  # noqa: E741
    if not loss.requires_grad:
        return [[0.0] * len(row) for row in case.l]
    flat = iter(torch.autograd.grad(loss, leaves, allow_unused=True))
    return [[0.0 if (slope := next(flat)) is None else -float(slope) for _ in row] for row in case.l]


def random_case(
    seed: int,
    groups: int | None = None,
    size: int | None = None,
    *,
    shortest: int = 1,
    longest: int = 7,
    holes: bool = True,
) -> Case:
    """Ragged responses with ties among rewards; holes: tokens not the policy's, abstentions, a group without a winner.

    A response's distance between current and old policy is drawn from four scales, so that ratios fall inside and on
    both sides of every preset's clip range.
    """
    rng = random.Random(seed)
    N, G = groups or rng.randint(2, 4), size or rng.randint(2, 5)
    lengths = [rng.randint(shortest, longest) for _ in range(N * G)]

    def near(rows: list[list[float]], scales: Sequence[float]) -> list[list[float]]:
        return [[x + rng.uniform(-s, s) for x in row] for row, s in zip(rows, scales, strict=True)]

    now = [[rng.uniform(-3.0, -0.05) for _ in range(length)] for length in lengths]
    old = near(now, [rng.choice((3e-4, 0.1, 0.5, 2.5)) for _ in lengths])
    mask = [[not holes or rng.random() < 0.75 for _ in range(length)] for length in lengths]
    for row in mask:
        row[rng.randrange(len(row))] = True
    rewards: list[list[float | None]] = [
        [None if holes and rng.random() < 0.15 else rng.choice((0.0, 0.25, 1.0, 1.5)) for _ in range(G)]
        for _ in range(N)
    ]
    if holes and N > 2:
        rewards[rng.randrange(N)] = [rng.choice((0.0, 1.0))] * G
    return Case(
        l=[[torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in row] for row in now],
        old=old,
        reference=near(now, [0.7] * len(lengths)),
        # below 0, as a probability's logarithm is
        sampler=[[min(x, -0.01) for x in row] for row in near(old, [rng.choice((0.05, 1.0)) for _ in lengths])],
        mask=mask,
        rewards=rewards,
        greedy=[None if holes and rng.random() < 0.2 else rng.choice((0.0, 1.0)) for _ in range(N)],
        values=[[rng.uniform(-1.0, 1.0) for _ in row] for row in now],
        max_tokens=9,
        truncated=[rng.random() < 0.25 for _ in lengths],
        entropies=[[rng.choice((0.1, rng.uniform(0.0, 3.0))) for _ in row] for row in now],
        teacher=near(now, [0.7] * len(lengths)),
    )
