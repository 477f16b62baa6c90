"""Every preset against an independent reference, finite differences, identities between methods, and any cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reasoner.gro.credit import returns_and_advantages
from reasoner.gro.evidence import high_entropy_tokens
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.links import link, slope_without_credit
from reasoner.gro.objective import weigh
from reasoner.gro.spec.presets import PRESETS, Weighted
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Aggregation,
    Anchor,
    Best,
    Clip,
    Correction,
    Divergence,
    Evidence,
    Gamma,
    Linear,
    Link,
    LinkFunction,
    LogSigmoid,
    PassAtK,
    Ratio,
    Sigmoid,
    SoftClip,
    Truncate,
)
from reasoner.gro.term_plan import credit_of, plan
from tests.gro_reference import (
    DETACHED,
    FRESH,
    OF_ONE_RESPONSE,
    OF_RESPONSES,
    PAIRED,
    REFERENCES,
    WITHOUT_REWARD,
    Case,
    Gap,
    Penalty,
    Variant,
    constant,
    counted,
    cpl,
    dpo,
    grpo,
    kto,
    mined,
    pass_at_k,
    random_case,
    response_mean,
    response_sum,
    rloo,
    slic,
    token_mean,
    tokens,
    weights,
)

SEEDS = range(8)
ANY_KL = (
    KL(0.3, "k2", "loss"),
    KL(0.3, "k3", "loss"),
    KL(0.3, "k1", "reward"),
    KL(0.3, "k2", "reward"),
    KL(0.3, "k3", "reward"),
)
LEVELS = ("token", "sequence", "geometric")
Terms = Mapping[str, Weighted]


@dataclass(frozen=True)
class Outcome:
    """What the objective says of a batch; rows without padding."""

    loss: float
    weights: list[list[float]]
    entropy: list[list[float]] | None


def _padded(rows: Sequence[Sequence[float]], fill: float = math.nan) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.float64)


def _logprobs(case: Case) -> Tensor:
    return _padded([[token.item() for token in row] for row in case.l])


def _inputs(case: Case) -> ObjectiveInputs:
    """Padding, abstained rewards and values of tokens not the policy's are NaN."""
    rewards = [[math.nan if r is None else r for r in group] for group in case.rewards]
    return ObjectiveInputs(
        rewards_NG=torch.tensor(rewards, dtype=torch.float64),
        valid_NG=torch.tensor([[r is not None for r in group] for group in case.rewards]),
        mask_RT=_padded(case.mask, 0.0) == 1.0,
        truncated_R=torch.tensor(case.truncated),
        greedy_N=torch.tensor([math.nan if r is None else r for r in case.greedy], dtype=torch.float64),
        old_RT=_padded(case.old),
        reference_RT=_padded(case.reference),
        teacher_RT=_padded(case.teacher),
        sampler_RT=_padded(case.sampler),
        values_RT=_padded(
            [
                [v if m else math.nan for v, m in zip(*row, strict=True)]
                for row in zip(case.values, case.mask, strict=True)
            ]
        ),
    )


def _terms(name: str, **changes: object) -> Terms:
    return {
        key: replace(each, term=replace(each.term, **changes))  # type: ignore[arg-type]
        for key, each in PRESETS[name].terms.items()
    }


def _weighed(
    case: Case,
    terms: Terms,
    inputs: ObjectiveInputs | None = None,
    cut: Sequence[Sequence[int]] | None = None,
    batch: Sequence[int] | None = None,
) -> Outcome:
    """The objective over a batch, each part of the cut weighed alone, its rows padded to the longest among them."""
    inputs = inputs or _inputs(case)
    plans = [
        plan(name, each.term, inputs, credit_of(each.term, inputs), case.max_tokens, each.weight, case.z0, batch)
        for name, each in terms.items()
    ]
    lengths = [len(row) for row in case.l]
    found = [[math.nan] * length for length in lengths]
    entropy = [[math.nan] * length for length in lengths]
    loss, bonus = 0.0, False
    for part in cut or [range(len(lengths))]:
        width = max(lengths[i] for i in part)
        here, diagnostics = weigh(
            plans, inputs, part, _logprobs(case)[list(part), :width], _padded(case.entropies)[list(part), :width]
        )
        loss += sum(each.weight * diagnostics[name].loss for name, each in terms.items())
        bonus = here.entropy_RT is not None
        for place, i in enumerate(part):
            found[i] = _unpadded(here.weights_RT[place], lengths[i])
            if here.entropy_RT is not None:
                entropy[i] = _unpadded(here.entropy_RT[place], lengths[i])
    return Outcome(loss, found, entropy if bonus else None)


def _unpadded(values_T: Tensor, length: int) -> list[float]:
    assert not values_T[length:].any()
    return values_T[:length].tolist()


def _assert_close(mine: Sequence[Sequence[float]], other: Sequence[Sequence[float]], rtol: float = 1e-10) -> None:
    torch.testing.assert_close(_padded(mine, 0.0), _padded(other, 0.0), rtol=rtol, atol=1e-14)


def _assert_equal(mine: Outcome, case: Case, loss: Tensor) -> None:
    assert mine.loss == pytest.approx(loss.item(), rel=1e-10, abs=1e-13)
    _assert_close(mine.weights, weights(case, loss))


def _offline(case: Case) -> Case:
    """The same responses as pairs of a chosen and a rejected one."""
    return replace(case, rewards=[[1.0, 0.0] for _ in case.rewards])


def test_every_preset_of_one_method_has_a_reference() -> None:
    assert set(REFERENCES) == set(PRESETS) - {"grpo+opd", "grpo+dpo", "grpo+sft", "raft->grpo", "rloo+kto"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", REFERENCES)
def test_on_fresh_groups(name: str, seed: int) -> None:
    case = random_case(seed)
    _assert_equal(_weighed(case, _terms(name)), case, REFERENCES[name](case))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PAIRED)
def test_on_given_pairs(name: str, seed: int) -> None:
    case = _offline(random_case(seed, size=2))
    assert len(mined(case)) == len(case.rewards)
    _assert_equal(_weighed(case, _terms(name)), case, PAIRED[name](case))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["kto", "sft"])
def test_on_given_responses(name: str, seed: int) -> None:
    case = replace(random_case(seed, groups=5, size=1, holes=seed % 2 == 0), z0=0.7)
    _assert_equal(_weighed(case, _terms(name)), case, REFERENCES[name](case))


@pytest.mark.parametrize("seed", SEEDS)
def test_mixtures_add_their_terms_with_their_weights(seed: int) -> None:
    case = random_case(seed)
    _assert_equal(_weighed(case, _terms("grpo+dpo")), case, grpo(case) + 0.1 * dpo(case))
    _assert_equal(_weighed(case, _terms("rloo+kto")), case, rloo(case) + 0.1 * kto(case))
    _assert_equal(_weighed(case, _terms("raft->grpo")), case, REFERENCES["raft"](case) + grpo(case))
    _assert_equal(_weighed(case, _terms("grpo+opd")), case, grpo(case) + 0.1 * REFERENCES["opd"](case))
    _assert_equal(_weighed(case, _terms("grpo+sft")), case, grpo(case) + 0.1 * REFERENCES["sft"](case))


def test_the_cases_reach_every_branch() -> None:
    cases = [random_case(seed) for seed in SEEDS]
    kept, lost = set(), set()
    for case in cases:
        found = weights(case, grpo(case))
        for i, row in enumerate(found):
            for t in tokens(case, i):
                u = (case.l[i][t] - case.old[i][t]).item()
                side = "inside" if 0.8 < math.exp(u) < 1.2 else "above" if u > 0 else "below"
                if row[t]:
                    kept.add((side, row[t] > 0))
                else:
                    lost.add(side)
    assert kept == {("inside", True), ("inside", False), ("above", False), ("below", True)}
    assert lost == {"inside", "above", "below"}
    assert any(u > math.log(5.0) for case in cases for u in _log_ratios(case))
    assert any(len(mined(case)) < len(case.rewards) for case in cases)
    assert any(None in group for case in cases for group in case.rewards)
    assert any(None in case.greedy for case in cases)
    assert any(not all(row) for case in cases for row in case.mask)
    assert any(kto_z0 > 0 for kto_z0 in map(_z0, cases))
    assert any(kto_z0 < 0 for kto_z0 in map(_z0, cases))


def _log_ratios(case: Case) -> list[float]:
    return [(case.l[i][t] - case.old[i][t]).item() for i in counted(case, Variant()) for t in tokens(case, i)]


def _z0(case: Case) -> float:
    return sum(case.sampler[i][t] - case.reference[i][t] for i in counted(case, Variant()) for t in tokens(case, i))


@pytest.mark.parametrize("name", sorted(set(REFERENCES) - set(WITHOUT_REWARD)))
def test_a_batch_without_verdicts_says_nothing(name: str) -> None:
    case = random_case(3)
    case = replace(case, rewards=[[None] * len(group) for group in case.rewards])
    found = _weighed(case, _terms(name))
    assert found.loss == 0.0
    assert not any(w for row in found.weights for w in row)


COMPARING = sorted(
    {*FRESH, "dppo-tv", "dppo-kl", "raft", *PAIRED} - {*OF_ONE_RESPONSE, "ppo", "reinforce++", "reinforce++-baseline"}
)


@pytest.mark.parametrize("name", COMPARING)
def test_groups_without_a_difference_get_weights_of_exactly_zero(name: str) -> None:
    case = random_case(3, groups=3, size=3)
    case = replace(case, rewards=[[0.1, 0.1, 0.1], [None, 0.3, None], [None, 0.7, 0.7]])
    assert not any(w for row in _weighed(case, _terms(name)).weights for w in row)


@pytest.mark.parametrize("name", PRESETS)
def test_a_response_without_a_token_of_the_policy_is_harmless(name: str) -> None:
    case = random_case(1, groups=3, size=3)
    case = replace(case, mask=[[False] * len(row) if i == 4 else row for i, row in enumerate(case.mask)])
    found = _weighed(case, _terms(name))
    assert math.isfinite(found.loss)
    assert not any(found.weights[4])
    assert all(math.isfinite(w) for row in found.weights for w in row)


@pytest.mark.parametrize("name", PRESETS)
def test_weights_have_the_number_format_of_the_log_probabilities(name: str) -> None:
    case = random_case(2)
    inputs = _inputs(case)
    plans = [
        plan(key, each.term, inputs, credit_of(each.term, inputs), case.max_tokens, each.weight)
        for key, each in PRESETS[name].terms.items()
    ]
    found, _ = weigh(plans, inputs, range(len(case.l)), _logprobs(case).float(), _padded(case.entropies).float())
    assert found.weights_RT.dtype == torch.float32
    expected_RT = _padded(_weighed(case, _terms(name)).weights, 0.0)
    torch.testing.assert_close(found.weights_RT.double(), expected_RT, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(set(REFERENCES) - set(DETACHED)))
def test_weights_are_minus_the_slope_of_the_loss(name: str, seed: int) -> None:
    case = random_case(seed, groups=3, size=3)
    terms, step = _terms(name), 1e-6
    found = _weighed(case, terms).weights
    largest = sorted(((abs(w), i, t) for i, row in enumerate(found) for t, w in enumerate(row)), reverse=True)
    for _, i, t in [*largest[:3], *largest[-2:]]:
        slope = (_moved(case, terms, i, t, step) - _moved(case, terms, i, t, -step)) / (2 * step)
        assert -slope == pytest.approx(found[i][t], rel=1e-6, abs=1e-8)


def test_the_slope_of_cispo_is_taken_at_a_fixed_ratio() -> None:
    """Below the cap d(r c u)/dl = r c (1 + u) where w = r c; above it the ratio is constant, and both are 5 c."""
    case, step = random_case(1, groups=3, size=3), 1e-6
    terms = _terms("cispo")
    found = _weighed(case, terms).weights
    seen = set()
    for i, t in [(i, t) for i, row in enumerate(found) for t, w in enumerate(row) if w]:
        u = (case.l[i][t] - case.old[i][t]).item()
        slope = (_moved(case, terms, i, t, step) - _moved(case, terms, i, t, -step)) / (2 * step)
        capped = math.exp(u) > 5.0
        assert -slope == pytest.approx(found[i][t] * (1 if capped else 1 + u), rel=1e-5, abs=1e-8)
        seen.add(capped)
    assert seen == {True, False}


def _moved(case: Case, terms: Terms, i: int, t: int, by: float) -> float:
    moved = [list(row) for row in case.l]
    moved[i][t] = moved[i][t].detach() + by
    return _weighed(replace(case, l=moved), terms).loss


@pytest.mark.parametrize("kl", ANY_KL, ids=lambda kl: f"{kl.estimator}-{kl.place}")
@pytest.mark.parametrize("name", FRESH)
def test_kl_in_the_loss_and_in_the_reward(name: str, kl: KL) -> None:
    variant = Variant(kl=Penalty(kl.coefficient, kl.estimator, kl.place))
    for seed in (0, 1, 2):
        case = random_case(seed)
        _assert_equal(_weighed(case, _terms(name, kl=kl)), case, FRESH[name](case, variant))


@pytest.mark.parametrize("kind", ["truncate", "mask"])
@pytest.mark.parametrize(
    ("name", "level"), [(n, level) for n, level in product(FRESH, LEVELS) if n not in OF_RESPONSES or level != "token"]
)
def test_corrections_leave_the_kl_alone(name: str, level: str, kind: str) -> None:
    correction = Correction(kind, level, 0.7, 1.3)  # type: ignore[arg-type]
    variant = Variant(kl=Penalty(0.3, "k2", "loss"), gap=Gap(kind, level, 0.7, 1.3))
    for seed in (0, 1, 2):
        case = random_case(seed)
        terms = _terms(name, kl=KL(0.3, "k2"), correction=correction)
        _assert_equal(_weighed(case, terms), case, FRESH[name](case, variant))


@pytest.mark.parametrize("name", FRESH)
def test_masked_truncated_responses_leave_z_and_not_the_baseline(name: str) -> None:
    variant = Variant(kl=Penalty(0.3, "k2", "loss"), mask_truncated=True)
    for seed in (0, 1, 2):
        case = random_case(seed)
        found = _weighed(case, _terms(name, kl=KL(0.3, "k2"), mask_truncated=True))
        _assert_equal(found, case, FRESH[name](case, variant))
        assert any(case.truncated)
        assert not any(w for i, row in enumerate(found.weights) if case.truncated[i] for w in row)


@pytest.mark.parametrize("name", FRESH)
def test_z_is_the_mini_batches_and_credit_the_batches(name: str) -> None:
    case = random_case(5, groups=4, size=3)
    for rows in ((0, 1, 2), (3, 4, 5, 9, 10, 11)):
        found = _weighed(case, _terms(name), cut=[rows], batch=rows)
        loss = FRESH[name](case, Variant(rows=rows))
        assert found.loss == pytest.approx(loss.item(), rel=1e-10, abs=1e-13)
        expected = weights(case, loss)
        _assert_close([found.weights[i] for i in rows], [expected[i] for i in rows])


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_are_counted_in_their_mini_batch(name: str) -> None:
    case = random_case(5, groups=4, size=3)
    inside = replace(case, rewards=[group if n in (1, 3) else [None] * 3 for n, group in enumerate(case.rewards)])
    assert len(mined(case)) > len(mined(inside)) > 0
    rows = [3, 4, 5, 9, 10, 11]
    found = _weighed(case, _terms(name), cut=[rows], batch=rows)
    expected = weights(inside, PAIRED[name](inside))
    _assert_close([found.weights[i] for i in rows], [expected[i] for i in rows])


@pytest.mark.parametrize("name", sorted({*FRESH, "dppo-tv"}))
@pytest.mark.parametrize("mask_truncated", [False, True])
def test_the_entropy_bonus_is_aggregated_as_its_term(name: str, mask_truncated: bool) -> None:
    aggregate = {
        "reinforce": response_sum,
        "rloo": response_sum,
        "remax": response_sum,
        "opo": response_sum,
        "best-of-n": response_sum,
        "luspo": response_sum,
        "topr": response_sum,
        "grpo": response_mean,
        "sapo": response_mean,
        "gmpo": response_mean,
        "gspo": response_mean,
        "dr-grpo": constant,
    }.get(name, token_mean)
    term = replace(PRESETS[name].term, mask_truncated=mask_truncated)
    for seed in (0, 1, 2):
        case = random_case(seed)
        ids = counted(case, Variant(mask_truncated=mask_truncated))
        bonus = 3.0 * 0.02 * aggregate(case, ids, lambda i, t, case=case: case.l[i][t])  # type: ignore[misc]  # l for H
        found = _weighed(case, {"only": Weighted(replace(term, entropy=0.02), 3.0)})
        assert found.entropy is not None
        _assert_close(found.entropy, weights(case, -bonus))
        _assert_close(found.weights, _weighed(case, {"only": Weighted(term, 3.0)}).weights)


def test_no_entropy_weights_without_a_bonus() -> None:
    assert _weighed(random_case(0), _terms("grpo")).entropy is None


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo_with_labels_that_may_be_flipped(seed: int) -> None:
    case = random_case(seed)
    _assert_equal(_weighed(case, _terms("dpo", link=LogSigmoid(smoothing=0.2))), case, dpo(case, smoothing=0.2))


@pytest.mark.parametrize("seed", SEEDS)
def test_cpl_discounts_over_the_policys_tokens(seed: int) -> None:
    case = random_case(seed)
    terms = _terms("cpl", evidence=Evidence("pair", "sum", False, 0.3, discount=0.8, bias=0.25))
    _assert_equal(_weighed(case, terms), case, cpl(case, 0.3, 0.8, 0.25))


@pytest.mark.parametrize("seed", SEEDS)
def test_slic_relative_to_the_reference(seed: int) -> None:
    case = random_case(seed)
    terms = _terms("slic", evidence=Evidence("pair", "sum", True))
    _assert_equal(_weighed(case, terms), case, slic(case, reference=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_options_of_kto(seed: int) -> None:
    case = random_case(seed)
    lopsided = _terms("kto", link=Sigmoid(desirable=1.5, undesirable=0.25))
    _assert_equal(_weighed(case, lopsided), case, kto(case, desirable=1.5, undesirable=0.25))
    given_z0 = replace(case, z0=1.3)
    _assert_equal(_weighed(given_z0, _terms("kto")), given_z0, kto(given_z0))
    at_zero = replace(case, z0=0.0)
    _assert_equal(_weighed(at_zero, _terms("kto")), at_zero, kto(at_zero))


def test_dual_clip_bounds_the_loss_of_a_bad_token() -> None:
    case = replace(
        random_case(0, 1, 2, shortest=3, longest=3, holes=False),
        rewards=[[1.0, 0.0]],
        old=[[-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]],
        l=[[torch.tensor(u - 1.0, dtype=torch.float64) for u in (0.0, 1.5, -1.5)] for _ in range(2)],
    )
    c = 0.5
    terms = _terms("dr-grpo", link=Clip(dual=3.0))
    per_token = 1 / (2 * case.max_tokens)
    found = _weighed(case, terms)
    good = [c, 0.0, c * math.exp(-1.5)]
    bad = [-c, 0.0, 0.0]
    _assert_close(found.weights, [[w * per_token for w in row] for row in (good, bad)])
    values = c * (1 + 1.2 + math.exp(-1.5)) - c * (1 + 3.0 + 0.8)
    assert found.loss == pytest.approx(-values * per_token, rel=1e-12)


def _on_policy(case: Case) -> ObjectiveInputs:
    return replace(_inputs(case), old_RT=None)


@pytest.mark.parametrize("name", FRESH)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_policy_that_has_not_moved_is_its_own_old_policy(name: str, seed: int) -> None:
    case = random_case(seed)
    case = replace(case, old=[[token.item() for token in row] for row in case.l])
    terms = _terms(name, kl=KL(0.3, "k2"))
    _assert_close(_weighed(case, terms, _on_policy(case)).weights, _weighed(case, terms).weights, 1e-14)
    variant = Variant(kl=Penalty(0.3, "k2", "loss"))
    _assert_equal(_weighed(case, terms, _on_policy(case)), case, FRESH[name](case, variant))


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_starts_as_plain_reinforce_with_its_credit(seed: int) -> None:
    case = random_case(seed)
    linear = _weighed(case, _terms("grpo", link=Linear())).weights
    _assert_close(_weighed(case, _terms("grpo"), _on_policy(case)).weights, linear)


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo_starts_as_grpo_for_any_lengths(seed: int) -> None:
    case = random_case(seed)
    grpo_weights = _weighed(case, _terms("grpo"), _on_policy(case)).weights
    _assert_close(_weighed(case, _terms("gspo"), _on_policy(case)).weights, grpo_weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_gspo_on_single_tokens_is_grpo(seed: int) -> None:
    case = random_case(seed, longest=1)
    gspo = _weighed(case, _terms("gspo", link=Clip(low=0.2, high=0.2)))
    _assert_close(gspo.weights, _weighed(case, _terms("grpo")).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_dapo_with_equal_clips_and_lengths_is_grpo(seed: int) -> None:
    case = random_case(seed, shortest=4, longest=4, holes=False)
    dapo = _weighed(case, _terms("dapo", link=Clip(low=0.2, high=0.2)))
    _assert_close(dapo.weights, _weighed(case, _terms("grpo")).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_dr_grpo_with_lengths_of_k_is_grpo_without_the_deviation(seed: int) -> None:
    case = replace(random_case(seed, shortest=4, longest=4, holes=False), max_tokens=4)
    plain = _weighed(case, _terms("grpo", credit=Advantage())).weights
    _assert_close(_weighed(case, _terms("dr-grpo")).weights, plain)


@pytest.mark.parametrize("seed", SEEDS)
def test_leave_one_out_is_the_mean_baseline_times_g_over_g_minus_1(seed: int) -> None:
    case = random_case(seed, size=4, holes=False)
    mean = _weighed(case, _terms("rloo", credit=Advantage())).weights
    _assert_close(_weighed(case, _terms("rloo")).weights, [[4 / 3 * w for w in row] for row in mean])


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo_with_a_small_beta_pushes_every_pair_by_one_half(seed: int) -> None:
    case, beta = random_case(seed), 1e-7
    found = _weighed(case, _terms("dpo", evidence=Evidence("pair", "sum", True, beta))).weights
    pairs = mined(case)
    expected = [[0.0] * len(row) for row in case.l]
    for good, bad in pairs:
        for i, sign in ((good, 1.0), (bad, -1.0)):
            for t in tokens(case, i):
                expected[i][t] = sign / 2 / len(pairs)
    _assert_close([[w / beta for w in row] for row in found], expected, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_raft_is_sft_on_the_winners(seed: int) -> None:
    case = random_case(seed)
    winners = {good for good, _ in mined(case)}
    size = len(case.rewards[0])
    rewards = [[1.0 if n * size + g in winners else None for g in range(size)] for n in range(len(case.rewards))]
    only = replace(case, rewards=rewards)
    _assert_close(_weighed(case, _terms("raft")).weights, _weighed(only, _terms("sft")).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_weighs_every_token_with_the_reward(seed: int) -> None:
    case = random_case(seed)
    per_response = [[0.0 if r is None else r for r in group] for group in case.rewards]
    size, count = len(case.rewards[0]), len(counted(case, Variant()))
    expected = [
        [per_response[i // size][i % size] / count if t in tokens(case, i) else 0.0 for t in range(len(row))]
        for i, row in enumerate(case.l)
    ]
    _assert_close(_weighed(case, _terms("reinforce")).weights, expected)


def _with(case: Case, rewards: Sequence[float]) -> Case:
    """The case with these rewards, taken in turn, in every group."""
    return replace(case, rewards=[[rewards[g % len(rewards)] for g in range(len(group))] for group in case.rewards])


def _near(case: Case, distance: float) -> Case:
    """The case with an old policy at most this far from the current one, nats per token, to both sides."""
    moved = [
        [token.item() + distance * math.sin(13.0 * i + 7.0 * t) for t, token in enumerate(row)]
        for i, row in enumerate(case.l)
    ]
    return replace(case, old=moved)


@pytest.mark.parametrize("seed", SEEDS)
def test_maxrl_of_right_and_wrong_times_the_pass_rate_is_the_mean_baseline(seed: int) -> None:
    case = _with(random_case(seed, size=4, holes=False), [1.0, 0.0, 0.0, 0.0])
    mean = _weighed(case, _terms("maxrl", credit=Advantage())).weights
    _assert_close([[w / 4 for w in row] for row in _weighed(case, _terms("maxrl")).weights], mean)


@pytest.mark.parametrize("rewards", [[0.0, -1.0], [-0.5, 0.5], [0.0, -0.0]])
def test_maxrl_says_nothing_where_the_mean_reward_is_not_above_0(rewards: list[float]) -> None:
    case = _with(random_case(2, size=4, holes=False), rewards)
    assert not any(w for row in _weighed(case, _terms("maxrl")).weights for w in row)


@pytest.mark.parametrize("seed", SEEDS)
def test_opo_on_equal_lengths_has_the_mean_baseline(seed: int) -> None:
    case = random_case(seed, shortest=4, longest=4, holes=False)
    _assert_close(_weighed(case, _terms("opo")).weights, _weighed(case, _terms("opo", credit=Advantage())).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_pass_at_1_is_the_mean_baseline_over_the_deviation(seed: int) -> None:
    case = _with(random_case(seed, size=4, holes=False), [1.0, 0.0, 0.0, 0.0])
    mean = _weighed(case, _terms("pass-at-k", credit=Advantage())).weights
    deviation = math.sqrt(0.25 * 0.75)
    _assert_close(
        _weighed(case, _terms("pass-at-k", credit=PassAtK(k=1))).weights, [[w / deviation for w in row] for row in mean]
    )


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_pass_at_k_counts_subsets(seed: int, k: int) -> None:
    """Groups of 2 to 5 with abstentions, so that some have fewer than k responses."""
    case = random_case(seed)
    _assert_equal(_weighed(case, _terms("pass-at-k", credit=PassAtK(k=k))), case, pass_at_k(case, k=k))


@pytest.mark.parametrize("seed", SEEDS)
def test_best_of_n_with_one_winner_is_raft_before_its_normaliser(seed: int) -> None:
    case = _with(random_case(seed, size=3, holes=False), [0.0, 1.0, 0.0])
    raft = _weighed(case, _terms("best-of-n", credit=Best())).weights
    _assert_close(_weighed(case, _terms("best-of-n")).weights, raft)


def test_best_of_n_with_two_winners_says_nothing() -> None:
    case = _with(random_case(1, size=4, holes=False), [1.0, 0.0])
    assert not any(w for row in _weighed(case, _terms("best-of-n")).weights for w in row)


@pytest.mark.parametrize("name", ["sapo", "gmpo", "dppo-tv", "dppo-kl", "vespo", "luspo"])
def test_what_bounds_the_ratio_starts_as_the_linear_link(name: str) -> None:
    """On a policy that has not moved by more than d, weights differ from plain REINFORCE's by no more than order d."""
    for distance in (1e-3, 1e-5):
        case = _near(random_case(3, holes=False), distance)
        case = replace(case, sampler=case.old)
        found = _weighed(case, _terms(name)).weights
        plain = _weighed(case, _terms(name, link=Linear(), evidence=replace(PRESETS[name].term.evidence, bound=None)))
        _assert_close(found, plain.weights, rtol=20 * distance)
        assert any(w for row in found for w in row)


@pytest.mark.parametrize("seed", SEEDS)
def test_sapo_pushes_less_the_farther_the_policy_is(seed: int) -> None:
    case = _near(random_case(seed, holes=False), 3.0)
    found, ratio = _weighed(case, _terms("sapo")).weights, _weighed(case, _terms("sapo", link=Ratio())).weights
    pairs = [
        (abs(a), abs(b)) for mine, theirs in zip(found, ratio, strict=True) for a, b in zip(mine, theirs, strict=True)
    ]
    assert all(a <= b for a, b in pairs)
    assert any(a < 0.1 * b for a, b in pairs)


@pytest.mark.parametrize("seed", SEEDS)
def test_gmpo_with_a_distant_bound_is_gspo_without_a_clip(seed: int) -> None:
    case = random_case(seed)
    free = _weighed(case, _terms("gmpo", evidence=Evidence("response", "mean", bound=100.0))).weights
    _assert_close(free, _weighed(case, _terms("gspo", link=Ratio())).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_tokens_of_high_entropy_have_dapos_weights_and_the_others_none(seed: int) -> None:
    case = random_case(seed)
    dapo = _weighed(case, _terms("dapo")).weights
    _assert_close(_weighed(case, _terms("top-entropy", evidence=Evidence(entropy_share=1.0))).weights, dapo)
    for share in (0.2, 0.5):
        found = _weighed(case, _terms("top-entropy", evidence=Evidence(entropy_share=share))).weights
        for i, row in enumerate(found):
            cut = sorted((case.entropies[i][t] for t in tokens(case, i)), reverse=True)[
                math.ceil(share * len(tokens(case, i))) - 1
            ]
            kept = {t for t in tokens(case, i) if case.entropies[i][t] >= cut}
            assert row == [dapo[i][t] if t in kept else 0.0 for t in range(len(row))]


def test_a_kl_penalty_is_for_every_token_whatever_its_entropy() -> None:
    case = random_case(1)
    alike = replace(case, rewards=[[1.0] * len(group) for group in case.rewards])
    of_all = _weighed(alike, _terms("dapo", kl=KL(0.3, "k2"))).weights
    assert any(w for row in of_all for w in row)
    assert _weighed(alike, _terms("top-entropy", kl=KL(0.3, "k2"))).weights == of_all


@pytest.mark.parametrize(
    ("share", "length", "count"), [(0.2, 1, 1), (0.2, 5, 1), (0.2, 6, 2), (0.1, 30, 3), (0.7, 10, 7), (1.0, 4, 4)]
)
def test_the_share_of_tokens_is_rounded_up(share: float, length: int, count: int) -> None:
    entropies_RT = torch.arange(float(length)).flip(0)[None]
    kept_RT = high_entropy_tokens(share, entropies_RT, torch.ones(1, length, dtype=torch.bool))
    assert kept_RT.tolist() == [[t < count for t in range(length)]]


def test_a_share_of_tokens_needs_their_entropies() -> None:
    case = random_case(1)
    inputs, term = _inputs(case), PRESETS["top-entropy"].term
    planned = plan("only", term, inputs, credit_of(term, inputs), case.max_tokens)
    with pytest.raises(
        ValueError, match=r"evidence\.entropy_share = 0\.2 needs the entropy of every position; got none"
    ):
        weigh([planned], inputs, range(len(case.l)), _logprobs(case))


@pytest.mark.parametrize("seed", SEEDS)
def test_luspo_over_the_length_is_gspo(seed: int) -> None:
    case, clip = random_case(seed), Clip(low=0.2, high=0.2)
    luspo = _weighed(case, _terms("luspo", link=clip)).weights
    gspo = _weighed(case, _terms("gspo", link=clip)).weights
    _assert_close([[w / max(len(tokens(case, i)), 1) for w in row] for i, row in enumerate(luspo)], gspo)


@pytest.mark.parametrize("seed", SEEDS)
def test_topr_starts_as_reinforce_with_labels(seed: int) -> None:
    case = random_case(seed)
    labels = [[None if r is None else 1.0 if r >= 1.0 else -1.0 for r in group] for group in case.rewards]
    reinforce = _weighed(replace(case, rewards=labels), _terms("reinforce"), None).weights
    _assert_close(_weighed(case, _terms("topr"), _on_policy(case)).weights, reinforce)


@pytest.mark.parametrize("name", ["dppo-tv", "dppo-kl"])
@pytest.mark.parametrize("seed", SEEDS)
def test_dppo_without_a_limit_is_importance_sampling(name: str, seed: int) -> None:
    case = random_case(seed)
    spec = PRESETS[name].term.link
    assert isinstance(spec, Divergence)
    found = _weighed(case, _terms(name, link=replace(spec, limit=1e9))).weights
    _assert_close(found, _weighed(case, _terms(name, link=Ratio())).weights)


def test_the_cases_reach_both_sides_of_every_limit() -> None:
    """Kept, cut outward, and kept because it is pushed back, for both signs of the credit."""
    for name in ("dppo-tv", "dppo-kl"):
        seen = set()
        for seed in SEEDS:
            case = random_case(seed)
            found, free = (_weighed(case, _terms(name, **more)).weights for more in ({}, {"link": Ratio()}))
            for i in counted(case, Variant()):
                for t in tokens(case, i):
                    u = case.l[i][t].item() - case.sampler[i][t]
                    seen.add((found[i][t] == free[i][t], u > 0, free[i][t] > 0))
        assert {(False, True, True), (False, False, False), (True, True, False), (True, False, True)} <= seen


@pytest.mark.parametrize("name", ["grpo", "gspo", "dapo"])
def test_the_sampler_as_anchor_is_the_old_policy_where_both_agree(name: str) -> None:
    case = random_case(4)
    case = replace(case, sampler=case.old)
    _assert_close(_weighed(case, _terms(name, anchor=Anchor("sampler"))).weights, _weighed(case, _terms(name)).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_vapo_with_a_large_scale_has_a_trace_of_1(seed: int) -> None:
    case = random_case(seed)
    credit = Advantage(baseline="critic", scale="batch")
    long = _weighed(case, _terms("ppo", credit=replace(credit, trace_scale=1e12))).weights
    _assert_close(long, _weighed(case, _terms("ppo", credit=replace(credit, trace=1.0))).weights, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_vapo_with_a_large_scale_is_ppo_with_a_trace_of_1_and_sft_on_right_responses(seed: int) -> None:
    case = _with(random_case(seed, size=4), [1.0, 0.0, 0.5, 1.5])
    (ppo, likelihood), credit = PRESETS["vapo"].terms.values(), Advantage(baseline="critic", scale="batch", trace=1.0)
    scaled = replace(ppo, term=replace(ppo.term, credit=replace(credit, trace_scale=1e12)))
    found = _weighed(case, {"ppo": scaled, "likelihood": likelihood}).weights
    right = replace(case, rewards=[[1.0 if (r or 0.0) >= 1.0 else None for r in group] for group in case.rewards])
    of_ppo = _weighed(case, _terms("ppo", credit=credit, link=Clip(high=0.28))).weights
    of_sft = _weighed(right, _terms("sft", source="online")).weights
    assert any(w for row in of_sft for w in row)
    expected = [[a + 0.1 * b for a, b in zip(*rows, strict=True)] for rows in zip(of_ppo, of_sft, strict=True)]
    _assert_close(found, expected, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_as_teacher_pulls_as_the_kl_penalty_does(seed: int) -> None:
    """On online responses, and with rewards that are all equal."""
    case = random_case(seed)
    case = replace(
        case,
        rewards=[[0.0] * len(group) for group in case.rewards],
        old=[[token.item() for token in row] for row in case.l],
        teacher=case.reference,
    )
    penalty = _terms("opd", credit=Advantage(), kl=KL(1.0, "k2"))
    _assert_close(_weighed(case, _terms("opd")).weights, _weighed(case, penalty).weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_self_distillation_without_the_solution_has_no_credit_before_the_first_update(seed: int) -> None:
    """The initial model is then teacher and policy; afterwards it pulls the policy back."""
    case = random_case(seed)
    without = replace(case, teacher=case.old)
    assert not any(w for row in _weighed(without, _terms("opsd")).weights for w in row)
    assert any(w for row in _weighed(case, _terms("opsd")).weights for w in row)


def test_a_critic_with_a_scaled_trace_learns_from_plain_returns() -> None:
    """With discount 1 and trace 1 every return is the response's reward."""
    inputs = _inputs(random_case(3))
    spec = Advantage(baseline="critic", trace_scale=0.05)
    returns_RT, _ = returns_and_advantages(spec, KL(), inputs)
    rewards_RT = inputs.rewards_NG.reshape(-1, 1).expand_as(returns_RT)
    counted_RT = inputs.mask_RT & inputs.valid_R[:, None]
    torch.testing.assert_close(returns_RT[counted_RT], rewards_RT[counted_RT])


@pytest.mark.parametrize("c", [1.0, -1.0, 0.0])
@pytest.mark.parametrize(
    "spec",
    [Ratio(), SoftClip(), Divergence(), Divergence(measure="kl"), Gamma(), Truncate(cap=1.0, only_negative=True)],
)
def test_links_are_finite_and_flat_without_credit(spec: Link, c: float) -> None:
    u = torch.tensor([-2000.0, -60.0, -1e-9, 0.0, 1e-9, 60.0, 2000.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1e-12, -30.0, -1.0, -1e-12, -1.0, -61.0, -2001.0], dtype=torch.float64)
    value = link(spec, u, torch.full_like(u, c), old)
    (slope,) = torch.autograd.grad(value.sum(), u)
    assert bool(value.isfinite().all())
    assert bool(slope.isfinite().all())
    assert c != 0.0 or not bool(slope.any())


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda u, c: c * torch.tanh(u), None),
        (lambda u, c: torch.sigmoid(torch.sign(c) * u) * (c != 0), None),
        (lambda u, c: torch.zeros_like(u), None),
        (lambda u, c: (c - 0.5) * u, (-8.0, -0.5)),
        (lambda u, c: c * u - u.square(), (-8.0, 16.0)),
        (lambda u, c: c * u + u.clamp(min=7.6), (8.0, 1.0)),
    ],
)
def test_a_link_that_is_not_flat_without_credit_is_found(
    function: LinkFunction, found: tuple[float, float] | None
) -> None:
    assert slope_without_credit(function) == found


@st.composite
def _cuts(draw: st.DrawFn, units: int) -> list[list[int]]:
    order = draw(st.permutations(range(units)))
    borders = sorted(draw(st.sets(st.integers(1, units - 1)))) if units > 1 else []
    return [list(order[a:b]) for a, b in zip([0, *borders], [*borders, units], strict=True)]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 10_000), st.data())
def test_any_cut_gives_the_same_weights(name: str, seed: int, data: st.DataObject) -> None:
    case = random_case(seed)
    paired = any(each.term.reads_pairs for each in PRESETS[name].terms.values())
    size = len(case.rewards[0])
    if paired:
        groups = data.draw(_cuts(len(case.rewards)))
        cut = [[n * size + g for n in part for g in range(size)] for part in groups]
    else:
        cut = data.draw(_cuts(len(case.l)))
    extras: dict[str, object] = {}
    if name in FRESH:
        level = "geometric" if name == "gspo" else "token"
        extras = {"kl": KL(0.3, "k3"), "entropy": 0.02, "correction": Correction("truncate", level, high=1.3)}  # type: ignore[arg-type]
    whole, parts = _weighed(case, _terms(name, **extras)), _weighed(case, _terms(name, **extras), cut=cut)
    _assert_close(parts.weights, whole.weights, rtol=1e-12)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-11, abs=1e-13)
    assert (parts.entropy is None) == (whole.entropy is None) == (name not in FRESH)
    if parts.entropy is not None and whole.entropy is not None:
        _assert_close(parts.entropy, whole.entropy, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "changes", "missing"),
    [
        ("remax", {}, "greedy_N"),
        ("ppo", {}, "values_RT"),
        ("reinforce++", {}, "old_RT"),
        ("reinforce++", {}, "reference_RT"),
        ("grpo", {"kl": KL(0.3, "k2")}, "reference_RT"),
        ("grpo", {"correction": Correction("truncate")}, "sampler_RT"),
        ("kto", {}, "sampler_RT"),
        ("kto", {}, "reference_RT"),
        ("dpo", {}, "reference_RT"),
        ("grpo", {"credit": Advantage(combine="normalise-then-sum")}, "components_KNG"),
    ],
)
def test_a_missing_annotation_is_named(name: str, changes: dict[str, object], missing: str) -> None:
    case = random_case(0)
    inputs = replace(_inputs(case), **{missing: None})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=missing.split("_")[0]):
        _weighed(case, _terms(name, **changes), inputs)


def test_numbers_by_hand() -> None:
    """Two groups, all of it on paper: GRPO with one clipped token, DPO with one pair."""
    case = replace(
        random_case(0, 1, 2, shortest=2, longest=2, holes=False),
        rewards=[[1.0, 0.0]],
        l=[[torch.tensor(x, dtype=torch.float64) for x in row] for row in ([-1.0, -2.0], [-1.5, -0.5])],
        old=[[-1.0, -3.0], [-1.5, -0.5]],
        reference=[[-2.0, -2.0], [-1.5, -1.5]],
    )
    c = 0.5 / (math.sqrt(0.5) + 1e-4)
    found = _weighed(case, _terms("grpo"))
    _assert_close(found.weights, [[c / 4, 0.0], [-c / 4, -c / 4]])
    assert found.loss == pytest.approx(-(c + 1.2 * c - 2 * c) / 4, rel=1e-12)
    push = 0.1 * 0.5  # D_w = D_l = 1: sigmoid(0) = 1/2
    _assert_close(_weighed(case, _terms("dpo")).weights, [[push, push], [-push, -push]])
    assert _weighed(case, _terms("dpo")).loss == pytest.approx(math.log(2.0), rel=1e-12)


def test_the_length_of_the_constant_aggregation_can_be_set() -> None:
    case = random_case(0)
    default = _weighed(case, _terms("dr-grpo")).weights
    halved = _weighed(case, _terms("dr-grpo", aggregation=Aggregation("constant", length=18))).weights
    _assert_close(halved, [[w / 2 for w in row] for row in default])
    assert any(w for row in default for w in row)


@pytest.mark.parametrize("certain", ["chosen", "rejected"])
def test_orpo_survives_a_response_that_is_certain(certain: str) -> None:
    """The log-odds of p = 1 are infinite, and a float32 log-probability is exactly 0 from p = 1 - 6e-8 on."""
    case = _offline(random_case(1, groups=2, size=2))
    i = mined(case)[0][0 if certain == "chosen" else 1]
    logprobs = [[torch.zeros_like(token) for token in row] if j == i else row for j, row in enumerate(case.l)]
    found = _weighed(replace(case, l=logprobs), _terms("orpo"))
    assert math.isfinite(found.loss)
    assert all(math.isfinite(w) for row in found.weights for w in row)


IDENTITIES: Mapping[str, Callable[..., None]] = {
    "maxrl": test_maxrl_of_right_and_wrong_times_the_pass_rate_is_the_mean_baseline,
    "opo": test_opo_on_equal_lengths_has_the_mean_baseline,
    "pass-at-k": test_pass_at_1_is_the_mean_baseline_over_the_deviation,
    "best-of-n": test_best_of_n_with_one_winner_is_raft_before_its_normaliser,
    "sapo": test_what_bounds_the_ratio_starts_as_the_linear_link,
    "gmpo": test_gmpo_with_a_distant_bound_is_gspo_without_a_clip,
    "top-entropy": test_the_tokens_of_high_entropy_have_dapos_weights_and_the_others_none,
    "luspo": test_luspo_over_the_length_is_gspo,
    "vespo": test_what_bounds_the_ratio_starts_as_the_linear_link,
    "dppo-tv": test_dppo_without_a_limit_is_importance_sampling,
    "dppo-kl": test_dppo_without_a_limit_is_importance_sampling,
    "topr": test_topr_starts_as_reinforce_with_labels,
    "opd": test_the_reference_as_teacher_pulls_as_the_kl_penalty_does,
    "opsd": test_self_distillation_without_the_solution_has_no_credit_before_the_first_update,
    "vapo": test_vapo_with_a_large_scale_is_ppo_with_a_trace_of_1_and_sft_on_right_responses,
}
"""what holds `Preset.equals`"""


def test_whatever_a_preset_says_that_it_equals_is_tested() -> None:
    assert set(IDENTITIES) == {name for name, preset in PRESETS.items() if preset.equals}
