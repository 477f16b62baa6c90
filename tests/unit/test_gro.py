"""Credit and objective against references written from the papers' formulas, in float64."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reasoner.gro.credit import credit, informative
from reasoner.gro.objective import Diagnostics, Plan, loss, plan, weigh
from reasoner.gro.presets import PRESETS
from reasoner.gro.terms import KL, Advantage, Aggregation, Best, Clip, Linear, Term, Threshold

MAX_TOKENS = 9


def ragged(seed: int, groups: int = 3, size: int = 4) -> dict[str, Tensor]:
    """A batch with different lengths, unequal rewards and (from seed 1 on) an abstained response."""
    generator = torch.Generator().manual_seed(seed)
    responses = groups * size
    lengths = torch.randint(1, MAX_TOKENS + 1, (responses,), generator=generator)
    mask = torch.arange(MAX_TOKENS)[None] < lengths[:, None]
    random_RT = torch.rand((responses, MAX_TOKENS), generator=generator, dtype=torch.float64)
    drift_RT = torch.randn((responses, MAX_TOKENS), generator=generator, dtype=torch.float64)
    logprobs = torch.where(mask, -3 * random_RT, 0.0)
    valid = torch.ones((groups, size), dtype=torch.bool)
    if seed:
        valid[0, 1] = False
    return {
        "rewards": torch.randint(0, 3, (groups, size), generator=generator).to(torch.float64),
        "valid": valid,
        "lengths": lengths.reshape(groups, size),
        "mask": mask,
        "logprobs": logprobs,
        "old": torch.where(mask, logprobs + 0.3 * drift_RT, 0.0),
        "reference": torch.where(mask, logprobs + 0.2 * drift_RT.flip(0), 0.0),
    }


def reference_credit(name: str, rewards: list[float | None]) -> list[float]:
    """Per group, from the papers, in plain Python; None is an abstained response."""
    valid = [r for r in rewards if r is not None]
    if name == "reinforce":
        return [0.0 if r is None else r for r in rewards]
    if len(valid) < 2:
        return [0.0] * len(rewards)
    mean = sum(valid) / len(valid)
    best_at = rewards.index(max(valid))

    def one(index: int, r: float | None) -> float:
        if r is None:
            return 0.0
        if name == "rloo":
            return r - (sum(valid) - r) / (len(valid) - 1)
        if name in ("grpo", "dapo"):
            return (r - mean) / (statistics.stdev(valid) + 1e-4)
        if name == "dr-grpo":
            return r - mean
        assert name == "raft"
        return float(index == best_at and min(valid) < max(valid))

    return [one(i, r) for i, r in enumerate(rewards)]


def reference_loss(name: str, batch: dict[str, Tensor], l_RT: Tensor) -> Tensor:
    """The presets' losses in plain loops, as the papers write them."""
    credits: list[float] = []
    for rewards, valid in zip(batch["rewards"].tolist(), batch["valid"].tolist(), strict=True):
        credits += reference_credit(name, [r if v else None for r, v in zip(rewards, valid, strict=True)])
    valid_R = batch["valid"].flatten().tolist()
    lengths = batch["lengths"].flatten().tolist()
    clip = {"grpo": (0.2, 0.2), "dr-grpo": (0.2, 0.2), "dapo": (0.2, 0.28)}.get(name)
    sums = []
    for i, c in enumerate(credits):
        total = torch.zeros((), dtype=torch.float64)
        for t in range(lengths[i]):
            if name == "raft" or clip is None:
                total = total + c * l_RT[i, t]
            else:
                ratio = torch.exp(l_RT[i, t] - batch["old"][i, t])
                clipped = torch.clamp(ratio, 1 - clip[0], 1 + clip[1])
                total = total + torch.min(ratio * c, clipped * c)
        sums.append(total if valid_R[i] else torch.zeros((), dtype=torch.float64))
    responses: int = sum(valid_R)
    tokens: int = sum(n for n, v in zip(lengths, valid_R, strict=True) if v)
    match name:
        case "reinforce" | "rloo":
            return -torch.stack(sums).sum() / responses
        case "grpo":
            return -torch.stack([s / n for s, n in zip(sums, lengths, strict=True)]).sum() / responses
        case "dr-grpo":
            return -torch.stack(sums).sum() / (responses * MAX_TOKENS)
        case "dapo":
            return -torch.stack(sums).sum() / tokens
        case "raft":
            chosen: int = sum(n for n, c in zip(lengths, credits, strict=True) if c > 0)
            return -torch.stack(sums).sum() / max(chosen, 1)
    raise AssertionError(name)


def make_plan(term: Term, batch: dict[str, Tensor]) -> Plan:
    return plan(term, batch["rewards"], batch["valid"], batch["lengths"], MAX_TOKENS)


def all_weights(the_plan: Plan, batch: dict[str, Tensor]) -> Tensor:
    rows = torch.arange(len(batch["mask"]))
    return weigh(the_plan, rows, batch["logprobs"], batch["mask"], batch["old"], batch["reference"])[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_equals_the_papers_formula(name: str, seed: int) -> None:
    batch = ragged(seed)
    term = PRESETS[name].term
    the_plan = make_plan(term, batch)
    leaf = batch["logprobs"].clone().requires_grad_()
    expected = reference_loss(name, batch, leaf)
    (gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(all_weights(the_plan, batch), -gradient, rtol=1e-10, atol=1e-12)
    if name not in ("reinforce", "rloo"):  # the linear link's value is relative to its anchor; its gradient is not
        ours = loss(term, batch["logprobs"], batch["old"], None, batch["mask"], the_plan.credit_R, the_plan.scale_R)
        torch.testing.assert_close(ours, expected.detach().to(torch.float64), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_weights_are_the_finite_differences_of_the_loss(name: str, estimator: str) -> None:
    batch = ragged(2)
    term = replace(PRESETS[name].term, kl=KL(0.3, estimator))  # type: ignore[arg-type]
    the_plan = make_plan(term, batch)

    def value(l_RT: Tensor) -> float:
        arguments = (batch["old"], batch["reference"], batch["mask"], the_plan.credit_R, the_plan.scale_R)
        return float(loss(term, l_RT, *arguments))

    weights, step = all_weights(the_plan, batch), 1e-6
    for i, t in [(0, 0), (3, 0), (5, 0), (7, 0), (11, 0)]:
        up, down = batch["logprobs"].clone(), batch["logprobs"].clone()
        up[i, t] += step
        down[i, t] -= step
        assert float(weights[i, t]) == pytest.approx(-(value(up) - value(down)) / (2 * step), abs=1e-7)


def test_kl_weight_is_the_estimators_derivative() -> None:
    batch = ragged(0)
    u = batch["logprobs"] - batch["reference"]
    for penalty, derivative in ((KL(0.5, "k2"), u), (KL(0.5, "k3"), 1 - torch.exp(-u))):
        term = Term(Advantage("advantage", "mean", "none"), kl=penalty, aggregation=Aggregation("token-mean"))
        batch["rewards"] = torch.ones_like(batch["rewards"])  # no credit: what is left is the penalty
        expected = torch.where(batch["mask"], -0.5 * derivative / batch["lengths"].sum(), 0.0)
        torch.testing.assert_close(all_weights(make_plan(term, batch), batch), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), pieces=st.integers(1, 12), name=st.sampled_from(sorted(PRESETS)), kl=st.booleans())
def test_weights_do_not_depend_on_how_the_batch_is_cut(seed: int, pieces: int, name: str, kl: bool) -> None:
    batch = ragged(seed)
    term = replace(PRESETS[name].term, kl=KL(0.1 if kl else 0.0, "k3"))
    the_plan = make_plan(term, batch)
    rows = torch.arange(len(batch["mask"]))
    whole, diagnostics = weigh(the_plan, rows, batch["logprobs"], batch["mask"], batch["old"], batch["reference"])
    order = rows.tolist()
    random.Random(seed).shuffle(order)
    cut = torch.zeros_like(whole)
    total = Diagnostics()
    for piece in (order[start::pieces] for start in range(pieces)):
        if piece:
            some = torch.tensor(piece)
            width = int(batch["lengths"].flatten()[some].max())  # a micro-batch pads to its own longest response
            arguments = [batch[key][some, :width] for key in ("logprobs", "mask", "old", "reference")]
            cut[some, :width], part = weigh(the_plan, some, *arguments)
            total = total + part
    assert torch.equal(cut, whole)
    assert total.tokens == diagnostics.tokens
    assert total.loss == pytest.approx(diagnostics.loss, rel=1e-12, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(
        st.lists(st.none() | st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=4
    ),
    name=st.sampled_from(sorted(PRESETS)),
)
def test_credit_equals_the_reference_with_abstentions(groups: list[list[float | None]], name: str) -> None:
    rewards = torch.tensor([[math.nan if r is None else r for r in group] for group in groups], dtype=torch.float64)
    got = credit(PRESETS[name].term.credit, rewards, ~rewards.isnan())
    expected = torch.tensor([reference_credit(name, group) for group in groups], dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr-grpo", "dapo", "raft"])
def test_a_group_without_differences_gets_exactly_no_credit(name: str) -> None:
    """0.1 + 0.2 and its like are not exactly their own mean: rounding must not become a weight."""
    rewards = torch.tensor([[0.1 + 0.2] * 7, [0.7] * 7], dtype=torch.float32)
    valid = torch.ones_like(rewards, dtype=torch.bool)
    assert torch.equal(credit(PRESETS[name].term.credit, rewards, valid), torch.zeros_like(rewards))
    assert not informative(rewards, valid).any()


def test_threshold_credits_what_reaches_it() -> None:
    rewards = torch.tensor([[0.2, 0.5, 1.0, 1.0]])
    valid = torch.tensor([[True, True, True, False]])
    assert credit(Threshold(at=0.5), rewards, valid).tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_only_responses_with_credit_are_active_unless_there_is_a_kl_penalty() -> None:
    batch = ragged(1)
    batch["rewards"][1] = 2.0  # a group without differences
    without = make_plan(PRESETS["grpo"].term, batch)
    assert not without.active_R[4:8].any()
    with_kl = make_plan(replace(PRESETS["grpo"].term, kl=KL(0.1, "k3")), batch)
    assert with_kl.active_R.tolist() == batch["valid"].flatten().tolist()
    weights = all_weights(without, batch)
    assert torch.equal(weights[~without.active_R], torch.zeros_like(weights[~without.active_R]))


def test_abstained_responses_leave_the_normaliser_and_zero_credit_ones_stay() -> None:
    batch = ragged(1)
    the_plan = make_plan(PRESETS["dapo"].term, batch)
    counted = batch["lengths"].flatten()[batch["valid"].flatten()].sum()
    assert float(the_plan.scale_R[0]) == pytest.approx(1 / int(counted))
    assert float(the_plan.scale_R[1]) == 0.0  # abstained


def test_padding_and_foreign_tokens_carry_no_weight_and_no_nan() -> None:
    batch = ragged(3)
    hidden = ~batch["mask"]
    for key in ("logprobs", "old", "reference"):
        batch[key] = batch[key].masked_fill(hidden, -torch.inf)
    weights = all_weights(make_plan(replace(PRESETS["grpo"].term, kl=KL(0.1, "k3")), batch), batch)
    assert torch.equal(weights[hidden], torch.zeros_like(weights[hidden]))


def test_first_on_policy_grpo_step_is_the_linear_link() -> None:
    batch = ragged(2)
    batch["old"] = batch["logprobs"]
    grpo = PRESETS["grpo"].term
    linear = replace(grpo, link=Linear())
    torch.testing.assert_close(
        all_weights(make_plan(grpo, batch), batch), all_weights(make_plan(linear, batch), batch), rtol=0, atol=1e-15
    )


def test_dapo_with_equal_clips_and_lengths_is_grpo() -> None:
    batch = ragged(0)
    batch["mask"][:] = True
    batch["lengths"][:] = MAX_TOKENS
    dapo = replace(PRESETS["dapo"].term, link=Clip("clip", 0.2, 0.2))
    torch.testing.assert_close(
        all_weights(make_plan(dapo, batch), batch), all_weights(make_plan(PRESETS["grpo"].term, batch), batch)
    )


def test_raft_with_one_winner_is_likelihood_of_it() -> None:
    batch = ragged(0, groups=1)
    batch["rewards"] = torch.tensor([[0.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
    weights = all_weights(make_plan(Term(Best(), "none", Linear(), Aggregation("credited-token-mean")), batch), batch)
    expected = torch.zeros_like(weights)
    expected[2] = torch.where(batch["mask"][2], 1 / batch["lengths"][0, 2], 0.0)
    torch.testing.assert_close(weights, expected)


def test_dual_clip_bounds_the_loss_of_bad_responses() -> None:
    """With c < 0 and a large ratio the surrogate is dual * c and its gradient 0 (1912.09729)."""
    batch = ragged(0, groups=1, size=2)
    batch["rewards"] = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    batch["old"] = batch["logprobs"] - 3.0
    term = replace(PRESETS["dr-grpo"].term, link=Clip("clip", 0.2, 0.2, dual=3.0))
    weights = all_weights(make_plan(term, batch), batch)
    assert torch.equal(weights[1], torch.zeros_like(weights[1]))
    without = all_weights(make_plan(PRESETS["dr-grpo"].term, batch), batch)
    assert float(without[1].min()) < 0


def test_effective_sample_size_counts_responses() -> None:
    batch = ragged(0, groups=1)
    batch["rewards"] = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    the_plan = make_plan(PRESETS["grpo"].term, batch)
    rows = torch.arange(4)
    _, found = weigh(the_plan, rows, batch["logprobs"], batch["mask"])
    assert found.response_mass**2 / found.response_mass_squared == pytest.approx(4.0, rel=1e-6)
    assert found.positive == pytest.approx(found.negative, rel=1e-6)
