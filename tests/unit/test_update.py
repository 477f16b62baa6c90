"""The update stage with a learner that only remembers what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reasoner.distributed.sharding import Selection
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import KL, Advantage, Aggregation, Source, Term
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.records import (
    Batch,
    Component,
    EnvironmentReport,
    Failure,
    Group,
    Message,
    Mismatched,
    Problem,
    Response,
    ScoredGroup,
    Turn,
)
from reasoner.training.update import ActiveTerm, UpdateReport, update

GRPO = PRESETS["grpo"].term


@dataclass
class RememberingLearner:
    """Its log-probability of every token is -0.5, its entropies are 0, 0.1, 0.2 ...

    It asks for weights one unit at a time, last first."""

    weights: dict[tuple[int, ...], list[float]] = field(default_factory=dict)
    steps: int = 0
    description: str = "fake"
    calls: list[tuple[float, bool]] = field(default_factory=list)
    """temperature and entropy of every `accumulate`"""

    @property
    def version(self) -> int:
        return self.steps

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return [[-0.5] * len(r.token_ids) for g in groups for r in g.responses]

    def accumulate(
        self,
        groups: Sequence[Group],
        weights: WeightFunction,
        temperature: float,
        *,
        selection: Selection | None = None,
        entropy: bool = False,
    ) -> Accumulated:
        responses = [r for g in groups for r in g.responses]
        self.calls.append((temperature, entropy))
        assert selection is not None
        units = [unit for part in selection.parts for unit in part.units]
        for unit in reversed(units):
            width = max(len(responses[row].token_ids) for row in unit)
            entropies_RT = torch.arange(width).expand(len(unit), width) / 10 if entropy else None
            asked = weights(unit, torch.full((len(unit), width), -0.5), entropies_RT)
            for row, values in zip(unit, asked.weights_RT.tolist(), strict=True):
                self.weights[(*responses[row].token_ids,)] = values[: len(responses[row].token_ids)]
        lengths = [len(responses[row].token_ids) for unit in units for row in unit]
        tokens = sum(lengths)
        return Accumulated(len(lengths), tokens, tokens, len(lengths), 0.0, 0.25 * tokens if entropy else 0.0)

    def step(self) -> StepResult:
        self.steps += 1
        return StepResult(True, "", 1.0, 1e-3, self.steps)

    def publish(self, folder: Path) -> str:
        raise AssertionError("the update stage does not publish")

    def save(self, folder: Path) -> None:
        raise AssertionError("the update stage does not save")

    def checkpoint(self, folder: Path) -> None:
        raise AssertionError("the update stage does not save")


def response(token: int, length: int = 2, masked: int = 0) -> Response:
    mask = tuple(t >= masked for t in range(length))
    return Response("x", (token,) * length, mask, (-0.5,) * length, "stop", 0)


def scored(rewards: Sequence[float | None], first_token: int, lengths: Sequence[int] | None = None) -> ScoredGroup:
    lengths = lengths or [2] * len(rewards)
    responses = tuple(response(first_token + i, n) for i, n in enumerate(lengths))
    problem = Problem(f"p{first_token}", (Message("user", "?"),), "1")
    return ScoredGroup(Group(problem, (1, 2), responses), ((),) * len(rewards), tuple(rewards))


def learn(learner: RememberingLearner, batch: Batch, *terms: Term, steps: int = 1, epochs: int = 1) -> UpdateReport:
    """Update on fresh groups with these terms, each with lambda 1."""
    active = [ActiveTerm(f"term{n}", term, 1.0) for n, term in enumerate(terms)]
    return update({"online": batch}, active, learner, max_tokens=8, steps=steps, epochs=epochs)


def test_every_response_gets_its_own_weight_and_those_without_are_left_out() -> None:
    learner = RememberingLearner()
    batch = Batch((scored([1.0, 1.0], 10), scored([None, 0.0], 20), scored([1.0, 0.0], 30, [1, 3])))
    report = learn(learner, batch, GRPO)
    assert set(learner.weights) == {(30,), (31,) * 3}
    assert report.metrics["update/responses_skipped"] == 4
    high, low = report.credits[4:]
    assert high == pytest.approx(-low)
    # response-mean over the 5 valid responses: w = c / (5 len)
    assert learner.weights[30,] == pytest.approx([high / 5])
    assert learner.weights[(31,) * 3] == pytest.approx([low / 15] * 3)
    assert report.weights[:4] == ((0.0, 0.0),) * 4
    assert report.weights[4:] == (tuple(learner.weights[30,]), tuple(learner.weights[(31,) * 3]))
    assert report.gap is not None
    assert (report.gap.mean, report.gap.tokens) == (0.0, 4)


def test_tokens_that_the_policy_did_not_write_get_no_weight_and_leave_the_normaliser() -> None:
    learner = RememberingLearner()
    group = scored([1.0, 0.0], 10)
    masked = replace(group.group, responses=(response(10, 4, masked=3), group.group.responses[1]))
    learn(learner, Batch((replace(group, group=masked),)), PRESETS["dapo"].term)
    weights = learner.weights[(10,) * 4]
    assert weights[:3] == [0.0] * 3
    assert weights[3] == pytest.approx(2**-0.5 / (1 + 2), rel=1e-3)  # token-mean over 1 + 2 tokens


def in_turns(token: int, turns: Sequence[str], rewards: Sequence[float] | None) -> Response:
    """`ppe` is a turn of two tokens of the policy and one that the environment wrote."""
    mask = tuple(token == "p" for token in "".join(turns))
    starts = [sum(map(len, turns[:at])) for at in range(len(turns))]
    made = tuple(
        turn
        for start, text in zip(starts, turns, strict=True)
        for turn in (
            Turn("assistant", start, start + text.count("p"), ""),
            Turn("tool", start + text.count("p"), start + len(text), ""),
        )
        if turn.end > turn.first
    )
    report = EnvironmentReport(None if rewards is None else sum(rewards), {}, tuple(rewards or ()))
    logprobs = tuple(-0.5 if own else 0.0 for own in mask)
    return Response("", (token,) * len(mask), mask, logprobs, "stop", 0, (), made, report)


def test_each_turn_gets_the_credit_of_what_comes_from_it_on() -> None:
    """Paid 1 after the first turn, 1 after the second, nothing at all; the fourth abstains. The environment's reward
    counts twice, and another source gives 0.5 to each."""
    responses = (
        in_turns(10, ["pe", "ppe", "p"], [1.0, 0.0, 0.0]),
        in_turns(11, ["ppe", "p"], [0.0, 1.0]),
        in_turns(12, ["p"], [0.0]),
        replace(in_turns(13, ["pe", "p"], [1.0]), report=EnvironmentReport(failure=Failure("maze", "crash", "", 0.0))),
    )
    rows = tuple((Component("environment", 2.0, float(n < 2)), Component("math", 1.0, 0.5)) for n in range(3))
    failed = tuple(replace(part, value=None, failure=responses[3].failure) for part in rows[0])
    group = Group(Problem("p", (), ""), (1,), responses)
    batch = Batch((ScoredGroup(group, (*rows, failed), (2.5, 2.5, 0.5, None)),))
    term = Term(credit=Advantage(level="turn"), aggregation=Aggregation("constant", length=1))
    learner = RememberingLearner()
    report = learn(learner, batch, term)
    of_all = (2.5 + 2.5 + 0.5) / 3  # from the first turn on
    left = (0.5 + 2.5 + 0.5) / 3  # from the second on: 2 were paid before
    last = (0.5 + 0.5 + 0.5) / 3  # from the third on
    expected = {
        (10,) * 6: [2.5 - of_all, 0, *[0.5 - left] * 2, 0, 0.5 - last],
        (11,) * 4: [*[2.5 - of_all] * 2, 0, 2.5 - left],
        (12,): [0.5 - of_all],
    }
    assert learner.weights == {name: pytest.approx([w / 3 for w in row]) for name, row in expected.items()}
    assert report.weights[3] == (0.0,) * 3
    assert report.credits[0] == pytest.approx((2.5 - of_all + 2 * (0.5 - left)) / 4)
    assert report.gap is not None
    assert report.gap.tokens == 4 + 3 + 1


def test_a_turn_that_was_cut_gets_no_credit_for_what_was_paid_before_it() -> None:
    """Paid 1 and 0 after the first turn, both cut in the second; a third one, of three turns, was never paid."""
    responses = (
        in_turns(10, ["pe", "pp"], [1.0]),
        in_turns(11, ["pe", "p"], [0.0]),
        in_turns(12, ["pe", "pe", "p"], None),
    )
    rows = tuple((Component("environment", 1.0, reward),) for reward in (1.0, 0.0, 0.5))
    group = Group(Problem("p", (), ""), (1,), responses)
    for size, expected in (
        (2, {(10,) * 4: [0.5, 0, 0, 0], (11,) * 3: [-0.5, 0, 0]}),
        # the third one's reward is still to come in every turn of it: from the second on, 0, 0 and 0.5 are left
        (
            3,
            {
                (10,) * 4: [0.5, 0, *[-0.5 / 3] * 2],
                (11,) * 3: [-0.5, 0, -0.5 / 3],
                (12,) * 5: [0, 0, 1 / 3, 0, 1 / 3],
            },
        ),
    ):
        learner = RememberingLearner()
        batch = Batch((ScoredGroup(replace(group, responses=responses[:size]), rows[:size], (1.0, 0.0, 0.5)[:size]),))
        learn(learner, batch, Term(credit=Advantage(level="turn"), aggregation=Aggregation("constant", length=1)))
        assert learner.weights == {
            name: pytest.approx([credit / size for credit in row], abs=1e-7) for name, row in expected.items()
        }


def test_turns_whose_rewards_are_no_part_of_the_total_are_credited_as_whole_responses() -> None:
    responses = (in_turns(10, ["pe", "p"], [1.0, 0.0]), in_turns(11, ["pe", "p"], [0.0, 1.0]))
    group = Group(Problem("p", (), ""), (1,), responses)
    term = Term(credit=Advantage(level="turn"), aggregation=Aggregation("constant", length=1))
    for environment in (Component("environment", 0.0, 1.0), Component("environment", 1.0, None)):
        rows = ((environment, Component("math", 1.0, 1.0)), (environment, Component("math", 1.0, 0.0)))
        learner = RememberingLearner()
        learn(learner, Batch((ScoredGroup(group, rows, (1.0, 0.0)),)), term)
        assert learner.weights == {(10,) * 3: [0.25, 0.0, 0.25], (11,) * 3: [-0.25, 0.0, -0.25]}


def test_only_tokens_of_high_entropy_are_weighed_and_the_entropies_are_asked_for() -> None:
    """The learner's entropies rise from token to token: of five tokens the last is the fifth with most."""
    learner = RememberingLearner()
    report = learn(learner, Batch((scored([1.0, 0.0], 10, [5, 10]),)), PRESETS["top-entropy"].term)
    assert [w != 0.0 for w in learner.weights[(10,) * 5]] == [False] * 4 + [True]
    assert [w != 0.0 for w in learner.weights[(11,) * 10]] == [False] * 8 + [True] * 2
    assert learner.calls == [(1.0, True)]
    assert report.metrics["entropy"] == pytest.approx(0.25)
    assert report.metrics["term/term0/zero_share"] == pytest.approx(12 / 15)
    assert report.metrics["term/term0/clipped_share"] == 0.0  # what was not chosen was not clipped


def test_mini_batches_step_one_after_the_other_with_their_own_annotations() -> None:
    learner = RememberingLearner()
    batch = Batch(
        (scored([1.0, 0.0], 10), scored([1.0, 0.0], 20)),
        old_logprobs=((-0.5, -0.5), (-0.5, -0.5), (-0.9, -0.9), (-0.9, -0.9)),
    )
    report = learn(learner, batch, GRPO, steps=2)
    assert learner.steps == len(report.steps) == 2
    assert all(w > 0 for w in learner.weights[10, 10])
    assert learner.weights[20, 20] == [0.0, 0.0]  # ratio e^0.4 is beyond 1 + 0.2 and the credit positive: clipped
    assert report.metrics["term/term0/clipped_share"] == pytest.approx(0.25)
    assert report.metrics["term/term0/ratio_max"] == pytest.approx(2.718281828**0.4, rel=1e-6)
    assert report.gap is not None
    assert report.gap.max == pytest.approx(0.4)  # measured on the old policy, which sampled


def test_every_epoch_passes_over_all_mini_batches() -> None:
    learner = RememberingLearner()
    batch = Batch((scored([1.0, 0.0], 10), scored([1.0, 0.0], 20), scored([0.0, 1.0], 30)))
    report = learn(learner, batch, GRPO, steps=3, epochs=2)
    assert learner.steps == 6
    assert len(learner.calls) == 6
    assert report.responses == 12
    assert report.weights[0] == pytest.approx([2 * w for w in learner.weights[10, 10]])  # the same in both passes


def test_mini_batches_of_fewer_groups_than_steps_leave_some_empty() -> None:
    """Dynamic sampling can leave fewer groups than optimiser steps."""
    learner = RememberingLearner()
    report = learn(learner, Batch((scored([1.0, 0.0], 10),)), GRPO, steps=2)
    assert set(learner.weights) == {(10, 10), (11, 11)}
    assert len(report.steps) == 2


def test_a_kl_penalty_reaches_every_valid_response() -> None:
    learner = RememberingLearner()
    term = replace(GRPO, kl=KL(0.1, "k2"))
    batch = Batch((scored([1.0, 1.0, None], 10),), reference_logprobs=((-0.7, -0.5), (-0.5, -0.5), (-0.5, -0.5)))
    report = learn(learner, batch, term)
    assert set(learner.weights) == {(10, 10), (11, 11)}
    # w = - beta u / (R len) with u = l - l_ref = 0.2
    assert learner.weights[10, 10] == pytest.approx([-0.1 * 0.2 / 4, 0.0])
    assert report.metrics["term/term0/kl"] == pytest.approx(0.02 / 4)


def test_a_batch_without_credit_reports_zeros_and_no_gap() -> None:
    report = learn(RememberingLearner(), Batch((scored([1.0, 1.0], 10),)), GRPO)
    assert report.gap is None
    assert report.metrics["term/term0/ess"] == report.metrics["term/term0/positive"] == 0.0
    assert report.metrics["term/term0/zero_share"] == 1.0
    assert report.metrics["update/responses_skipped"] == 2


def test_terms_of_one_source_share_a_pass_and_their_weights_add_up() -> None:
    batch = Batch((scored([1.0, 0.0, 0.0], 10),))
    dpo = replace(PRESETS["simpo"].term, source="online")
    alone, other, both = RememberingLearner(), RememberingLearner(), RememberingLearner()
    learn(alone, batch, GRPO)
    learn(other, batch, dpo)
    report = learn(both, batch, GRPO, dpo)
    assert len(both.calls) == 1
    assert set(other.weights) == {(10, 10), (11, 11)}  # the best and the first of the worst
    for tokens, weights in both.weights.items():
        expected = [a + b for a, b in zip(alone.weights[tokens], other.weights.get(tokens, [0.0] * 9), strict=False)]
        assert weights == pytest.approx(expected)
    assert report.metrics["term/term1/pairs"] == 1.0


def test_sources_add_up_before_the_optimiser_steps_each_under_its_own_temperature() -> None:
    learner = RememberingLearner()
    fresh = Batch((scored([1.0, 0.0], 10),), temperature=0.7)
    demos = Batch((scored([1.0], 50), scored([1.0], 60)))
    batches: dict[Source, Batch] = {"online": fresh, "demos": demos}
    terms = [ActiveTerm("grpo", GRPO, 1.0), ActiveTerm("sft", replace(PRESETS["sft"].term, entropy=0.1), 0.5)]
    report = update(batches, terms, learner, max_tokens=8)
    assert learner.steps == 1
    assert learner.calls == [(0.7, False), (1.0, True)]
    assert learner.weights[50, 50] == pytest.approx([0.5 / 4] * 2)  # lambda / tokens with credit
    assert report.metrics["entropy"] == pytest.approx(0.25)
    assert report.gap is not None  # of the fresh responses alone: nobody sampled the demonstrations
    assert report.gap.tokens == 4


def test_mismatched_responses_give_ktos_anchor() -> None:
    """z0 = max(0, mean over responses of sum_t (l - l_ref)) at each other's prompts (2402.01306)."""
    groups = (scored([1.0], 10), scored([0.0], 20))
    moved = Mismatched(tuple(g.group for g in groups), ((-0.7, -0.9), (-0.5, -0.5)))
    batch = Batch(groups, reference_logprobs=((-0.5, -0.5), (-0.5, -0.5)), mismatched=moved)
    learner = RememberingLearner()
    terms = [ActiveTerm("kto", PRESETS["kto"].term, 1.0)]
    update({"labelled": batch}, terms, learner, max_tokens=8)
    z0 = ((0.2 + 0.4) + 0.0) / 2
    s = torch.sigmoid(torch.tensor(0.1 * (0.0 - z0), dtype=torch.float64))
    expected = float(0.1 * s * (1 - s) / 2)  # both at evidence 0: s'(u) beta / R
    assert learner.weights[10, 10] == pytest.approx([expected] * 2)
    assert learner.weights[20, 20] == pytest.approx([-expected] * 2)


class Counting:
    """A credit that draws random numbers, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def __call__(self, rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
        self.calls.append(torch.rand_like(rewards_NG))
        return self.calls[-1]


def test_credit_is_computed_once_per_batch_and_term_over_all_passes_and_mini_batches() -> None:
    """So all of them see what the plugin drew once."""
    learner, one, other = RememberingLearner(), Counting(), Counting()
    batch = Batch(tuple(scored([1.0, 0.0], 10 * n) for n in range(1, 5)))
    report = learn(learner, batch, replace(GRPO, credit=one), replace(GRPO, credit=other), steps=2, epochs=3)
    assert learner.steps == 6
    (of_one,), (of_other,) = one.calls, other.calls
    assert report.credits == tuple(of_one.flatten().tolist())
    # response-mean over a mini-batch's 4 responses of 2 tokens, in 3 passes, of both terms
    expected = 3 * (of_one + of_other).flatten() / (4 * 2)
    for weights, value in zip(report.weights, expected.tolist(), strict=True):
        assert weights == pytest.approx([value] * 2, rel=1e-5)
