"""Updates that are not finite: which responses are named, and when the run stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from reasoner.config import LearningConfig
from reasoner.distributed.sharding import Selection
from reasoner.errors import RunError
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import Term
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.learning.optimizer import Optimizer
from reasoner.records import Batch, Group, Message, NonFiniteResponse, Problem, Response, ScoredGroup
from reasoner.training.guards.nonfinite import StepTrace, explain, stop_after
from reasoner.training.update import ActiveTerm, UpdateReport, update

SKIPPED = StepResult(False, "the gradient is not finite (norm nan): step skipped", math.nan, 1e-3, 0, finite=False)


@dataclass
class Failing:
    """A policy or a critic: its output for a token is the token's id / 10; no step is finite, or all are."""

    finite: bool
    description: str = "fake"
    version: int = 0

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return [[-t / 10 for t in r.token_ids] for g in groups for r in g.responses]

    def values(self, groups: Sequence[Group]) -> list[list[float]]:
        return self.logprobs(groups, 1.0)

    def accumulate(
        self,
        groups: Sequence[Group],
        weights: WeightFunction,
        temperature: float = 1.0,
        *,
        selection: Selection | None = None,
        entropy: bool = False,
    ) -> Accumulated:
        logprobs = self.logprobs(groups, temperature)
        assert selection is not None
        for row in (row for part in selection.parts for row in part.rows):
            weights([row], torch.tensor([logprobs[row]]), None)
        return Accumulated(0, 0, 0, 0, 0.0)

    def step(self) -> StepResult:
        return StepResult(True, "", 1.0, 1e-3, 1) if self.finite else SKIPPED

    def publish(self, folder: Path) -> str:
        raise AssertionError("the update stage does not publish")

    def save(self, folder: Path) -> None:
        raise AssertionError("the update stage does not save")

    def checkpoint(self, folder: Path) -> None:
        raise AssertionError("the update stage does not save")


def group(*responses: tuple[float, ...]) -> ScoredGroup:
    """The first response has reward 1, the others 0; a response is its token ids."""
    made = tuple(
        Response("x", tuple(map(int, ids)), (True,) * len(ids), (-0.1,) * len(ids), "stop", 0) for ids in responses
    )
    rewards = tuple(float(n == 0) for n in range(len(made)))
    problem = Problem(f"p{responses[0][0]}", (Message("user", "?"),), "1")
    return ScoredGroup(Group(problem, (1, 2), made), ((),) * len(made), rewards)


def learn(term: Term, *, steps: int = 1, critic: Failing | None = None, policy_is_finite: bool = False) -> UpdateReport:
    values = None if critic is None else ((1.0, 1.0), (1.0,), (1.0, 1.0), (1.0,))
    batch = Batch((group((1, 2), (3,)), group((4, 5), (6,))), values=values)
    terms = [ActiveTerm("t", term, 1.0)]
    learner = Failing(policy_is_finite)
    return update({"online": batch}, terms, learner, max_tokens=8, steps=steps, critic=critic, value_clip=0.2)


def test_every_response_of_a_step_is_named_where_each_number_is_finite() -> None:
    report = learn(PRESETS["grpo"].term, steps=2)
    assert [each.problem.id for each in report.nonfinite] == ["p1", "p1", "p4", "p4"]
    first = report.nonfinite[0]
    assert (first.model, first.source, first.reward, first.response.token_ids) == ("policy", "online", 1.0, (1, 2))
    assert first.outputs == pytest.approx((-0.1, -0.2))
    assert len(first.weights) == 2
    assert first.weights[0] > 0
    assert report.metrics["update/not_finite"] == 2
    assert report.skipped == [f"no update: {SKIPPED.reason}"] * 2
    assert "overflows in the backward pass" in explain(report.nonfinite)


def test_a_finite_step_names_nobody() -> None:
    report = learn(PRESETS["grpo"].term, policy_is_finite=True)
    assert report.nonfinite == ()
    assert report.metrics["update/not_finite"] == 0
    assert report.skipped == []


def test_the_critic_is_counted_on_its_own() -> None:
    report = learn(PRESETS["ppo"].term, critic=Failing(False), policy_is_finite=True)
    assert {each.model for each in report.nonfinite} == {"critic"}
    assert [len(each.outputs) for each in report.nonfinite] == [2, 1, 2, 1]
    assert report.metrics["update/not_finite"] == 0
    assert report.metrics["critic/not_finite"] == 1
    assert report.skipped == [f"no update of the critic: {SKIPPED.reason}"]
    assert "the critic overflows" in explain(report.nonfinite)


def test_only_responses_with_a_value_that_is_not_finite_are_named_where_there_are_some(tmp_path: Path) -> None:
    seen = StepTrace()
    outputs = torch.tensor([[-0.1, -0.2], [math.nan, 0.0], [-0.3, -math.inf]])
    seen.add([0, 1, 2], outputs, torch.ones(3, 2))
    seen.add([3], torch.tensor([[-0.4]]), torch.tensor([[math.inf]]))
    nonfinite = seen.nonfinite("policy", "online", [group((1, 2), (3,)), group((4, 5), (6,))])
    assert [each.response.token_ids for each in nonfinite] == [(3,), (4, 5), (6,)]
    assert explain(nonfinite) == "the policy's log-probabilities of 2 responses are not finite"
    assert explain(nonfinite[2:]) == "the objective's weights of 1 response are not finite"
    file = tmp_path / "suspects.parquet"
    write_parquet(file, nonfinite)
    (first, *others) = read_parquet(file, NonFiniteResponse)
    assert math.isnan(first.outputs[0])
    assert others == list(nonfinite[1:])


def test_what_stands_beyond_a_response_does_not_make_it_suspect() -> None:
    seen = StepTrace()
    seen.add([1, 2], torch.tensor([[-0.1, math.nan], [-0.2, math.nan]]), torch.ones(2, 2))
    (suspect,) = seen.nonfinite("policy", "online", [group((1, 2), (3,)), group((4, 5), (6,))])
    assert suspect.response.token_ids == (4, 5)


@pytest.mark.parametrize(
    ("bad", "limit", "stops"),
    [
        ([1, 1, 1], 3, True),
        ([0, 1, 1, 2], 3, True),
        ([1, 1], 3, False),
        ([1, 0, 1, 1], 3, False),
        ([1], 1, True),
    ],
)
@pytest.mark.parametrize("name", ["update/not_finite", "critic/not_finite"])
def test_a_run_stops_after_some_steps_in_a_row(bad: list[int], limit: int, stops: bool, name: str) -> None:
    history = [{name: float(count)} for count in bad]
    (suspect,) = (replace(each, outputs=(math.nan,)) for each in learn(PRESETS["grpo"].term).nonfinite[1:2])
    if not stops:
        stop_after(history, limit, [suspect], Path("file.parquet"))
        return
    with pytest.raises(RunError) as stopped:
        stop_after(history, limit, [suspect], Path("file.parquet"))
    for part in (f"max_not_finite = {limit}", "log-probabilities of 1 response ", "file.parquet", "learning_rate"):
        assert part in str(stopped.value)


def test_a_loss_that_is_not_finite_is_dropped_although_its_gradient_is_fine() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = Optimizer([("weight", weight)], LearningConfig(), peak=0.1, total_steps=9)
    optimizer.backward(weight.sum() * 1.0)
    optimizer.backward(weight.sum() + math.inf)
    result = optimizer.step()
    assert (result.applied, result.finite, result.version) == (False, False, 0)
    assert result.reason == "the loss is not finite (inf): step skipped"
    assert weight.tolist() == [1.0, 1.0]
    optimizer.backward(weight.sum())
    assert optimizer.step().applied


def test_a_skipped_step_leaves_the_moments_as_they_were() -> None:
    results = []
    for bad in (False, True):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = Optimizer([("weight", weight)], LearningConfig(), peak=0.1, total_steps=9)
        optimizer.backward((weight * torch.tensor([3.0, 1.0])).sum())
        optimizer.step()
        if bad:
            optimizer.backward((weight * torch.tensor([math.nan, 1.0])).sum())
            assert not optimizer.step().finite
        optimizer.backward((weight * torch.tensor([-1.0, 2.0])).sum())
        optimizer.step()
        results.append(weight.tolist())
    assert results[0] == results[1]
