"""The update stage with a learner that only remembers what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from reasoner.gro.presets import PRESETS
from reasoner.gro.terms import KL
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.records import Batch, Group, Message, Problem, Response, ScoredGroup
from reasoner.update import update

GRPO = PRESETS["grpo"].term


@dataclass
class RememberingLearner:
    """Its log-probability of every token is -0.5; it asks for weights one response at a time, last first."""

    weights: dict[tuple[int, ...], list[float]] = field(default_factory=dict)
    steps: int = 0
    description: str = "fake"

    @property
    def version(self) -> int:
        return self.steps

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return [[-0.5] * len(r.token_ids) for g in groups for r in g.responses]

    def accumulate(self, groups: Sequence[Group], weights: WeightFunction, temperature: float) -> Accumulated:
        responses = [r for g in groups for r in g.responses]
        for row in reversed(range(len(responses))):
            l_RT = torch.full((1, len(responses[row].token_ids)), -0.5)
            self.weights[responses[row].token_ids] = weights([row], l_RT)[0].tolist()
        tokens = sum(len(r.token_ids) for r in responses)
        return Accumulated(len(responses), tokens, tokens, len(responses), 0.0)

    def step(self) -> StepResult:
        self.steps += 1
        return StepResult(True, "", 1.0, 1e-3, self.steps)

    def publish(self, folder: Path) -> str:
        raise AssertionError("the update stage does not publish")

    def save(self, folder: Path) -> None:
        raise AssertionError("the update stage does not save")


def response(token: int, length: int = 2, masked: int = 0) -> Response:
    mask = tuple(t >= masked for t in range(length))
    return Response("x", (token,) * length, mask, (-0.5,) * length, "stop", 0)


def scored(rewards: Sequence[float | None], first_token: int, lengths: Sequence[int] | None = None) -> ScoredGroup:
    lengths = lengths or [2] * len(rewards)
    responses = tuple(response(first_token + i, n) for i, n in enumerate(lengths))
    problem = Problem(f"p{first_token}", (Message("user", "?"),), "1")
    return ScoredGroup(Group(problem, (1, 2), responses), ((),) * len(rewards), tuple(rewards))


def test_every_response_gets_its_own_weight_and_those_without_are_left_out() -> None:
    learner = RememberingLearner()
    batch = Batch((scored([1.0, 1.0], 10), scored([None, 0.0], 20), scored([1.0, 0.0], 30, [1, 3])))
    report = update(batch, learner, GRPO, temperature=1.0, max_tokens=8, steps=1)
    assert set(learner.weights) == {(30,), (31,) * 3}
    assert report.skipped == 4
    assert report.informative == 1
    high, low = report.credits[4:]
    assert high == pytest.approx(-low)
    # response-mean over the 5 valid responses: w = c / (5 len)
    assert learner.weights[30,] == pytest.approx([high / 5])
    assert learner.weights[(31,) * 3] == pytest.approx([low / 15] * 3)
    assert report.gap is not None
    assert (report.gap.mean, report.gap.tokens) == (0.0, 4)


def test_tokens_that_the_policy_did_not_write_get_no_weight_and_leave_the_normaliser() -> None:
    learner = RememberingLearner()
    group = scored([1.0, 0.0], 10)
    masked = replace(group.group, responses=(response(10, 4, masked=3), group.group.responses[1]))
    update(Batch((replace(group, group=masked),)), learner, PRESETS["dapo"].term, 1.0, 8, 1)
    weights = learner.weights[(10,) * 4]
    assert weights[:3] == [0.0] * 3
    assert weights[3] == pytest.approx(2**-0.5 / (1 + 2), rel=1e-3)  # token-mean over 1 + 2 tokens


def test_mini_batches_step_one_after_the_other_with_their_own_annotations() -> None:
    learner = RememberingLearner()
    batch = Batch(
        (scored([1.0, 0.0], 10), scored([1.0, 0.0], 20)),
        old_logprobs=((-0.5, -0.5), (-0.5, -0.5), (-0.9, -0.9), (-0.9, -0.9)),
    )
    report = update(batch, learner, GRPO, temperature=1.0, max_tokens=8, steps=2)
    assert learner.steps == len(report.steps) == 2
    assert all(w > 0 for w in learner.weights[10, 10])
    assert learner.weights[20, 20] == [0.0, 0.0]  # ratio e^0.4 is beyond 1 + 0.2 and the credit positive: clipped
    assert report.metrics["weight/clipped_share"] == pytest.approx(0.25)
    assert report.gap is not None
    assert report.gap.max == pytest.approx(0.4)  # measured on the old policy, which sampled


def test_a_kl_penalty_reaches_every_valid_response() -> None:
    learner = RememberingLearner()
    term = replace(GRPO, kl=KL(0.1, "k2"))
    batch = Batch((scored([1.0, 1.0, None], 10),), reference_logprobs=((-0.7, -0.5), (-0.5, -0.5), (-0.5, -0.5)))
    report = update(batch, learner, term, temperature=1.0, max_tokens=8, steps=1)
    assert set(learner.weights) == {(10, 10), (11, 11)}
    # w = - beta u / (R len) with u = l - l_ref = 0.2
    assert learner.weights[10, 10] == pytest.approx([-0.1 * 0.2 / 4, 0.0])
    assert report.metrics["kl/reference"] == pytest.approx(0.02 / 4)


def test_a_batch_without_credit_reports_zeros_and_no_gap() -> None:
    report = update(Batch((scored([1.0, 1.0], 10),)), RememberingLearner(), GRPO, 1.0, 8, 1)
    assert report.gap is None
    assert report.metrics["weight/ess"] == report.metrics["weight/positive"] == 0.0
    assert report.skipped == 2
