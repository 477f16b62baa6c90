"""What the weights of a term look like, in figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reasoner.gro.diagnostics import Diagnostics
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.objective import weigh
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import Correction, Term
from reasoner.gro.term_plan import credit_of, plan

T = 3


def found(
    term: Term, rewards: list[list[float]], logprobs_RT: Tensor, old_RT: Tensor | None = None, **more: Tensor
) -> tuple[Diagnostics, int]:
    rewards_NG = torch.tensor(rewards, dtype=torch.float64)
    mask_RT = torch.ones(rewards_NG.numel(), T, dtype=torch.bool)
    inputs = ObjectiveInputs(rewards_NG, torch.ones_like(rewards_NG, dtype=torch.bool), mask_RT, old_RT=old_RT, **more)
    the_plan = plan("term", term, inputs, credit_of(term, inputs), T)
    _, diagnostics = weigh([the_plan], inputs, range(len(mask_RT)), logprobs_RT)
    return diagnostics["term"], the_plan.tokens


def test_four_equal_responses_are_an_effective_sample_of_four() -> None:
    diagnostics, tokens = found(PRESETS["grpo"].term, [[1.0, 0.0, 0.0, 1.0]], torch.full((4, T), -1.0))
    metrics = diagnostics.metrics(0.5, tokens)
    assert metrics["ess"] == pytest.approx(4.0, rel=1e-6)
    assert metrics["positive"] == pytest.approx(metrics["negative"], rel=1e-6)
    assert metrics["weight"] == 0.5
    assert metrics["zero_share"] == 0.0
    assert metrics["ratio_mean"] == metrics["ratio_max"] == 1.0


def test_groups_without_differences_are_among_the_zero_tokens() -> None:
    diagnostics, tokens = found(PRESETS["grpo"].term, [[1.0, 0.0], [1.0, 1.0]], torch.full((4, T), -1.0))
    assert diagnostics.metrics(1.0, tokens)["zero_share"] == pytest.approx(0.5)


def test_what_the_clip_cuts_off_is_counted() -> None:
    now = torch.full((2, T), -1.0)
    old = now.clone()
    old[0, 0] -= 1.0  # ratio e of a good response: beyond 1.2
    diagnostics, tokens = found(PRESETS["grpo"].term, [[1.0, 0.0]], now, old)
    metrics = diagnostics.metrics(1.0, tokens)
    assert metrics["clipped_share"] == pytest.approx(1 / 6)
    assert metrics["zero_share"] == pytest.approx(1 / 6)
    assert metrics["ratio_max"] == pytest.approx(2.718281828, rel=1e-6)
    assert metrics["ratio_mean"] == pytest.approx((2.718281828 + 5) / 6, rel=1e-6)


def test_corrected_tokens_are_counted() -> None:
    now = torch.full((2, T), -1.0)
    sampler = now.clone()
    sampler[1, 2] -= 2.0  # rho = e^2, above 2
    term = replace(PRESETS["rloo"].term, correction=Correction("truncate"))
    diagnostics, tokens = found(term, [[1.0, 0.0]], now, sampler_RT=sampler)
    assert diagnostics.metrics(1.0, tokens)["corrected_share"] == pytest.approx(1 / 6)


def test_pairs_have_accuracy_and_margin() -> None:
    now = torch.tensor([[-1.0] * T, [-2.0] * T, [-3.0] * T, [-1.0] * T], dtype=torch.float64)
    term = replace(PRESETS["simpo"].term, source="online")
    diagnostics, tokens = found(term, [[1.0, 0.0], [1.0, 0.0]], now)
    metrics = diagnostics.metrics(1.0, tokens)
    assert (metrics["pairs"], metrics["accuracy"]) == (2.0, 0.5)
    assert metrics["margin"] == pytest.approx((2.0 * 1.0 + 2.0 * -2.0) / 2)  # beta 2


def test_micro_batches_add_up() -> None:
    now = torch.full((4, T), -1.0)
    whole, tokens = found(PRESETS["grpo"].term, [[1.0, 0.0, 0.5, 1.0]], now)
    joined = whole + Diagnostics() + whole
    assert joined.metrics(1.0, 2 * tokens)["zero_share"] == whole.metrics(1.0, tokens)["zero_share"]
    assert joined.ratio_max == whole.ratio_max
    assert joined.loss == 2 * whole.loss
