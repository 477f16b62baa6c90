"""Corners of the objective: overflow, anchors, plugins' credits, choices that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.links import link
from reasoner.gro.objective import weigh
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Aggregation,
    Anchor,
    Clip,
    Correction,
    Evidence,
    Linear,
    Link,
    One,
    Pairing,
    Sigmoid,
    Term,
    Truncate,
)
from reasoner.gro.spec.validation import mistake_of_term
from reasoner.gro.term_plan import credit_of, plan

GRPO, DPO = PRESETS["grpo"].term, PRESETS["dpo"].term
ECHO = replace(PRESETS["sft"].term, source="online", evidence=Evidence(tokens="observed"))


@pytest.mark.parametrize("spec", [Clip(), Clip(dual=3.0), Truncate()])
@pytest.mark.parametrize("credit", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("u", [1e3, 100.0, -1e3])
def test_a_ratio_that_overflows_gives_a_finite_value_and_gradient(spec: Link, credit: float, u: float) -> None:
    leaf = torch.tensor([u], dtype=torch.float32, requires_grad=True)
    value = link(spec, leaf, torch.tensor([credit]))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert bool(value.isfinite().all())
    assert bool(gradient.isfinite().all())
    if credit == 0.0 or (isinstance(spec, Clip) and credit > 0.0 and u > 0.0):
        assert float(gradient) == 0.0  # beyond the clip


def test_sigmoids_lambdas_are_exact_in_float64() -> None:
    u, c = torch.tensor([0.3, 0.3], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    s = torch.sigmoid(u * c)
    expected = torch.stack([1.1 * s[0], 0.7 * s[1]])
    found = link(Sigmoid(desirable=1.1, undesirable=0.7), u, c)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_a_margin_acts_only_where_the_anchor_is_one() -> None:
    assert Anchor("none", 5.0).constant == 0.0
    assert Anchor("margin", 5.0).constant == 5.0
    assert "anchor.margin" in mistake_of_term(replace(DPO, anchor=Anchor("none", 5.0)))


def inputs() -> ObjectiveInputs:
    rewards_NG = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return ObjectiveInputs(rewards_NG, torch.ones(1, 2, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.zeros(1, 1), r"shape \(1, 2\)"),
        ([[0.0, 1.0]], r"shape \(1, 2\)"),
        (torch.tensor([[0.0, float("nan")]]), "finite"),
    ],
)
def test_what_a_plugins_credit_returns_is_looked_at(returned: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        credit_of(replace(GRPO, credit=lambda rewards_NG, valid_NG: returned), inputs())


def test_responses_without_a_token_of_the_policy_cost_nothing() -> None:
    empty = replace(inputs(), mask_RT=torch.zeros(2, 3, dtype=torch.bool))
    found, _ = weigh([plan("grpo", GRPO, empty, credit_of(GRPO, empty), 3)], empty, range(2), torch.full((2, 3), -1.0))
    assert torch.equal(found.weights_RT, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("term", "key"),
    [
        (replace(PRESETS["remax"].term, credit=Advantage(baseline="greedy", combine="normalise-then-sum")), "combine"),
        (replace(GRPO, evidence=Evidence(discount=0.9)), "discount"),
        (replace(GRPO, aggregation=Aggregation("token-mean", length=5)), "aggregation.length"),
        (replace(GRPO, pairing=Pairing(margin=0.5)), "pairing"),
        (replace(DPO, pairing=Pairing(margin=0.5)), "pairing"),
        (replace(GRPO, credit=Advantage(trace=0.5)), "credit.trace"),
        (Term("demos", One(), link=Linear(), mask_truncated=True), "mask_truncated"),
        (Term("demos", One(), aggregation=Aggregation("constant")), "aggregation.length"),
        (Term("pairs", Advantage(combine="normalise-then-sum")), "normalise-then-sum"),
        (replace(GRPO, kl=KL(0.1, "k1")), "kl.estimator"),
        (replace(GRPO, evidence=Evidence(entropy_share=0.0)), "evidence.entropy_share must be in (0, 1], got 0.0"),
        (
            replace(PRESETS["gspo"].term, evidence=Evidence("response", entropy_share=0.5)),
            "needs evidence.unit = 'token'",
        ),
        *(
            (term, "evidence.tokens = 'observed' is the likelihood")
            for term in (
                replace(ECHO, source="demos"),
                replace(ECHO, credit=Advantage()),
                replace(ECHO, evidence=Evidence(tokens="observed", entropy_share=0.5)),
                replace(ECHO, anchor=Anchor("old")),
                replace(ECHO, link=Sigmoid()),
                replace(ECHO, kl=KL(0.1)),
                replace(ECHO, correction=Correction("truncate")),
                replace(ECHO, entropy=0.1),
            )
        ),
    ],
)
def test_a_choice_that_nothing_would_read_is_refused(term: Term, key: str) -> None:
    assert key in mistake_of_term(term)


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_refused(name: str) -> None:
    assert [mistake_of_term(weighted.term) for weighted in PRESETS[name].terms.values()] == [""] * len(
        PRESETS[name].terms
    )


def test_what_the_environment_wrote_is_no_token_of_other_terms() -> None:
    """Each term has the normaliser of its own tokens; a plugin's link with an infinite slope at 0 leaves no NaN."""
    assert mistake_of_term(ECHO) == ""
    mask_RT = torch.tensor([[True, False, True], [True, True, True]])
    batch = replace(inputs(), mask_RT=mask_RT, observed_RT=~mask_RT)
    steep = replace(GRPO, link=lambda u, c: c * u.abs().sqrt())
    for term in (ECHO, steep, PRESETS["dapo"].term):
        found, _ = weigh(
            [plan("one", term, batch, credit_of(term, batch), 3)], batch, range(2), torch.full((2, 3), -1.0)
        )
        own_RT = batch.observed_RT if term is ECHO else mask_RT
        assert own_RT is not None
        assert torch.equal(found.weights_RT[~own_RT], torch.zeros(int((~own_RT).sum())))
    echo = plan("echo", ECHO, batch, credit_of(ECHO, batch), 3)
    assert (echo.tokens, echo.scale_R.tolist(), echo.active_R.tolist()) == (1, [1.0, 0.0], [True, False])
