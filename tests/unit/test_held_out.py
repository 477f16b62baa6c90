"""Held-out rows against the papers' formulas, over ranks with uneven and empty shares, and what has no figure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from reasoner.distributed.ranks import Ranks
from reasoner.distributed.sharding import ShardedPolicy
from reasoner.evaluation.metrics import Estimate, Evaluation, compare
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import Source, Term
from reasoner.records import Group, Message, Problem, Response, ScoredGroup
from reasoner.training.held_out import AT_ONCE, HeldOut
from tests.unit.test_sharded_sampler import on_ranks

BETA = 0.1


def row(number: int, *rewards: float, length: int = 3) -> ScoredGroup:
    """Responses of different lengths; their tokens say which they are."""
    responses = tuple(
        Response("x", (10 * number + at,) * size, (True,) * size, (0.0,) * size, "stop", 0)
        for at, size in enumerate(range(length, length + len(rewards)))
    )
    group = Group(Problem(f"p:{number}", (Message("user", "?"),), ""), (1, number), responses)
    return ScoredGroup(group, ((),) * len(rewards), rewards)


@dataclass
class Policy:
    """Log-probabilities that depend on the prompt, the response and a seed alone."""

    seed: int
    asked: list[int] = field(default_factory=list)
    """groups of every call"""

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        assert temperature == 1.0
        self.asked.append(len(groups))
        return [self.of(group, response) for group in groups for response in group.responses]

    def of(self, group: Group, response: Response) -> list[float]:
        chance = random.Random(f"{self.seed} {group.prompt_ids} {response.token_ids}")
        return [round(-3 * chance.random(), 3) for _ in response.token_ids]


def term(preset: str) -> dict[str, Term]:
    return {name: weighted.term for name, weighted in PRESETS[preset].terms.items()}


def measured(
    preset: str, source: Source, rows: Sequence[ScoredGroup], learner: Policy, reference: Policy
) -> dict[str, Estimate]:
    held_out = HeldOut({source: rows}, term(preset), learner, reference, 16)
    assert held_out.count == len(rows)
    return {estimate.name: estimate for estimate in held_out.measure(lambda done, total: None)}


def values(found: Mapping[str, Estimate], name: str) -> list[float]:
    return list(found[name].by_problem.values())


def test_dpo_has_the_papers_loss_of_every_pair_and_a_tie_counts_a_half() -> None:
    rows = [row(n, 1.0, 0.0) for n in range(5)]
    now, before = Policy(1), Policy(2)
    result = measured("dpo", "pairs", rows, now, before)
    margins = [
        BETA * (sum(now.of(g, g.responses[0])) - sum(before.of(g, g.responses[0])))
        - BETA * (sum(now.of(g, g.responses[1])) - sum(before.of(g, g.responses[1])))
        for g in (scored.group for scored in rows)
    ]
    assert values(result, "term/dpo/margin") == pytest.approx(margins, abs=1e-6)
    assert values(result, "term/dpo/loss") == pytest.approx([math.log1p(math.exp(-u)) for u in margins], abs=1e-6)
    assert values(result, "term/dpo/accuracy") == [float(u > 0) for u in margins]
    assert 0.0 < result["term/dpo/accuracy"].value < 1.0
    chosen = [sum(now.of(s.group, s.group.responses[0])) / 3 for s in rows]
    assert values(result, "term/dpo/logprob") == pytest.approx(chosen, abs=1e-6)
    assert list(result["term/dpo/loss"].by_problem) == [f"p:{n}" for n in range(5)]
    untrained = measured("dpo", "pairs", rows, Policy(1), Policy(1))
    assert values(untrained, "term/dpo/accuracy") == [0.5] * 5
    assert untrained["term/dpo/loss"].value == pytest.approx(math.log(2), abs=1e-6)


def test_kto_has_the_papers_loss_with_the_kl_of_all_rows() -> None:
    rows = [row(n, float(n % 2)) for n in range(6)]
    now, before = Policy(3), Policy(4)
    result = measured("kto", "labelled", rows, now, before)
    groups = [scored.group for scored in rows]
    moved = [(groups[n], groups[(n + 1) % 6].responses[0]) for n in range(6)]
    z0 = max(0.0, sum(sum(now.of(*each)) - sum(before.of(*each)) for each in moved) / 6)
    losses = []
    for n, group in enumerate(groups):
        ratio = sum(now.of(group, group.responses[0])) - sum(before.of(group, group.responses[0]))
        u = BETA * (ratio - z0) * (1 if n % 2 else -1)
        losses.append(-1 / (1 + math.exp(-u)))
    assert values(result, "term/kto/loss") == pytest.approx(losses, abs=1e-6)
    assert list(result["term/kto/logprob"].by_problem) == ["p:1", "p:3", "p:5"]  # the good ones
    assert "term/kto/accuracy" not in result


def test_sft_has_the_mean_negative_log_probability_per_token() -> None:
    rows = [row(n, 1.0, length=2 + n) for n in range(4)]
    now = Policy(5)
    result = measured("sft", "demos", rows, now, Policy(6))
    means = [sum(now.of(s.group, s.group.responses[0])) / (2 + n) for n, s in enumerate(rows)]
    assert values(result, "term/sft/loss") == pytest.approx([-mean for mean in means], abs=1e-6)
    assert values(result, "term/sft/logprob") == pytest.approx(means, abs=1e-6)
    assert result["term/sft/loss"].unit == "number"


def test_every_term_of_a_mixture_has_its_figures() -> None:
    result = measured("cpo", "pairs", [row(n, 1.0, 0.0) for n in range(3)], Policy(1), Policy(2))
    assert {"term/prefer/loss", "term/prefer/accuracy", "term/sft/loss"} <= set(result)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_ranks_measure_their_shares_and_all_have_the_whole(rows: int) -> None:
    """Four ranks and one row: three of them have nothing, and take part."""
    pairs = [row(n, 1.0, 0.0, length=2 + n) for n in range(rows)]
    alone = measured("dpo", "pairs", pairs, Policy(1), Policy(2))

    def rank(ranks: Ranks) -> dict[str, Estimate]:
        learner, reference = ShardedPolicy(Policy(1), ranks), ShardedPolicy(Policy(2), ranks)
        held_out = HeldOut({"pairs": pairs}, term("dpo"), learner, reference, 16)
        return {estimate.name: estimate for estimate in held_out.measure(lambda done, total: None)}

    assert on_ranks(4, rank) == [alone] * 4


def test_the_reference_is_asked_once_and_progress_is_told() -> None:
    rows = [row(n, 1.0) for n in range(AT_ONCE + 5)]
    learner, reference = Policy(1), Policy(2)
    held_out = HeldOut({"labelled": rows}, term("kto"), learner, reference, 16)
    told: list[tuple[int, int]] = []
    first = held_out.measure(lambda done, total: told.append((done, total)))
    again = held_out.measure(lambda done, total: None)
    assert first == again
    assert told == [(0, AT_ONCE + 5), (AT_ONCE, AT_ONCE + 5), (AT_ONCE + 5, AT_ONCE + 5)]
    assert learner.asked == [AT_ONCE, 5] * 4  # the rows, and each response put to another's prompt, twice
    assert reference.asked == [AT_ONCE, 5] * 2


def test_a_row_without_a_finite_value_is_left_out() -> None:
    class Broken(Policy):
        def of(self, group: Group, response: Response) -> list[float]:
            return [math.nan if group.prompt_ids[1] == 1 else -1.0 for _ in response.token_ids]

    result = measured("sft", "demos", [row(n, 1.0) for n in range(3)], Broken(1), Policy(2))
    assert result["term/sft/loss"].by_problem == {"p:0": 1.0, "p:2": 1.0}


def test_checkpoints_are_compared_by_held_out_loss_where_there_is_nothing_better() -> None:
    def evaluation(loss: float, accuracy: float | None = None) -> Evaluation:
        result = [Estimate("term/sft/loss", "number", loss, None, None, "none", {"p:0": loss})]
        if accuracy is not None:
            result.append(Estimate("avg@1", "share", accuracy, None, None, "none", {"p:0": accuracy}))
        return Evaluation(1, 1, 0, tuple(result), rows=1)

    assert evaluation(0.5).quality > evaluation(0.6).quality
    assert evaluation(0.6, 0.2).quality > evaluation(0.5, 0.1).quality
    (change,) = compare(evaluation(0.6), evaluation(0.5))
    assert (change.name, change.problems, change.fell) == ("term/sft/loss", 1, 1)
