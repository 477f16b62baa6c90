"""The update stage: a batch becomes one or more optimiser steps.

Here the two halves meet that never mix: the objective (`reasoner.gro`) turns log-probabilities into weights, the
learner turns weights into a gradient. Responses that cannot get weight are left out before the learner sees them; the
gradient is the same without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import torch
from torch import Tensor

from reasoner.gro.objective import Diagnostics, Plan, plan, weigh
from reasoner.gro.terms import Term
from reasoner.handover import Gap
from reasoner.learning.learner import Learner, StepResult
from reasoner.records import Batch, Response, ScoredGroup

Progress = Callable[[int, int], None]
"""`(responses done, responses in all)`"""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What the update stage did with one batch."""

    credits: tuple[float, ...]
    """(R,) credit of every response of the batch, 0 where abstained"""
    informative: int
    """groups with at least two valid, different rewards"""
    diagnostics: Diagnostics
    skipped: int
    """responses without weight, which cost no forward"""
    tokens: int
    """tokens that went through the model, shared prompts counted once"""
    steps: tuple[StepResult, ...]
    """one per mini-batch"""
    gap: Gap | None
    """sampler against learner over the trained responses; None: nothing was trained on"""

    @property
    def metrics(self) -> dict[str, float]:
        """The update's rows of the metrics table (`reasoner.reporting.metrics`)."""
        found = self.diagnostics
        tokens = max(found.tokens, 1)
        last = self.steps[-1]
        values = {
            "credit/abs_mean": sum(map(abs, self.credits)) / len(self.credits),
            "weight/positive": found.positive,
            "weight/negative": found.negative,
            "weight/zero_share": found.zero / tokens,
            "weight/clipped_share": found.clipped / tokens,
            "weight/ess": found.response_mass**2 / found.response_mass_squared if found.response_mass else 0.0,
            "kl/reference": found.kl / tokens,
            "update/loss": found.loss,
            "update/grad_norm": last.grad_norm,
            "update/learning_rate": last.learning_rate,
            "update/applied": sum(step.applied for step in self.steps) / len(self.steps),
            "update/responses_skipped": float(self.skipped),
            "update/tokens": float(self.tokens),
        }
        if self.gap is not None:
            values |= {"gap/mean": self.gap.mean, "gap/max": self.gap.max, "gap/k3": self.gap.k3}
        return values


def update(
    batch: Batch,
    learner: Learner,
    term: Term,
    temperature: float,
    max_tokens: int,
    steps: int,
    progress: Progress = lambda done, total: None,
) -> UpdateReport:
    """One optimiser step per mini-batch of whole groups.

    Args:
        batch: annotated groups; with several mini-batches it must carry `old_logprobs`.
        learner: accumulates the weighted log-likelihood and steps.
        term: the objective.
        temperature: the T of the sampled distribution.
        max_tokens: the longest response allowed, in tokens.
        steps: mini-batches; divides the number of groups.
        progress: told how many of a mini-batch's responses have been weighed, of how many.
    """
    parts = []
    for mini in _mini_batches(batch, steps):
        objective = Objective.of(mini, term, max_tokens, progress)
        done = learner.accumulate([scored.group for scored in objective.active], objective, temperature)
        parts.append(
            UpdateReport(
                credits=tuple(objective.plan.credit_R.tolist()),
                informative=int(objective.plan.informative_N.sum()),
                diagnostics=objective.diagnostics,
                skipped=len(mini.responses) - done.responses,
                tokens=done.tokens,
                steps=(learner.step(),),
                gap=objective.gap,
            )
        )
    return _join(parts)


@dataclass(slots=True)
class Objective:
    """The weight function of one mini-batch: what the learner calls with log-probabilities, micro-batch by
    micro-batch."""

    plan: Plan
    batch: Batch
    active: list[ScoredGroup]
    """the groups with only those responses that can get weight"""
    active_rows: list[int]
    """index into the mini-batch's R responses of every response of `active`"""
    progress: Progress
    weighed: int = 0
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    gap: Gap | None = None

    @classmethod
    def of(cls, batch: Batch, term: Term, max_tokens: int, progress: Progress) -> Objective:
        """Fix credit and normalisers of a mini-batch, and leave out what cannot get weight."""
        rewards_NG = torch.tensor(
            [[math.nan if r is None else r for r in scored.rewards] for scored in batch.groups], dtype=torch.float64
        )
        lengths_NG = torch.tensor([[sum(r.policy_mask) for r in s.group.responses] for s in batch.groups])
        the_plan = plan(term, rewards_NG, ~rewards_NG.isnan(), lengths_NG, max_tokens)
        kept = the_plan.active_R.tolist()
        size = rewards_NG.shape[1]
        groups = [_keep(scored, kept[n * size : (n + 1) * size]) for n, scored in enumerate(batch.groups)]
        rows = [row for row, keep in enumerate(kept) if keep]
        progress(0, len(rows))
        return cls(the_plan, batch, [scored for scored in groups if scored.group.responses], rows, progress)

    def __call__(self, rows: Sequence[int], logprobs_RT: Tensor) -> Tensor:
        """(r, T) weights of the active responses `rows` under their current log-probabilities."""
        which = [self.active_rows[row] for row in rows]
        everything = self.batch.responses
        responses = [everything[row] for row in which]
        mask_RT = _padded([r.policy_mask for r in responses], logprobs_RT).bool()
        old_RT = self._annotated(self.batch.old_logprobs, which, logprobs_RT)
        reference_RT = self._annotated(self.batch.reference_logprobs, which, logprobs_RT)
        weights_RT, found = weigh(
            self.plan, torch.tensor(which), logprobs_RT, mask_RT, old_RT=old_RT, reference_RT=reference_RT
        )
        self.diagnostics += found
        self.weighed += len(which)
        self.progress(self.weighed, len(self.active_rows))
        self._measure_gap(responses, logprobs_RT if old_RT is None else old_RT, mask_RT)
        return weights_RT

    def _annotated(
        self, values: tuple[tuple[float, ...], ...] | None, which: Sequence[int], like_RT: Tensor
    ) -> Tensor | None:
        return None if values is None else _padded([values[row] for row in which], like_RT)

    def _measure_gap(self, responses: Sequence[Response], learner_RT: Tensor, mask_RT: Tensor) -> None:
        sampler_RT = _padded([r.sampler_logprobs for r in responses], learner_RT)
        here = Gap.between(learner_RT[mask_RT].tolist(), sampler_RT[mask_RT].tolist())
        self.gap = here if self.gap is None else self.gap + here


def _keep(scored: ScoredGroup, kept: Sequence[bool]) -> ScoredGroup:
    group = replace(scored.group, responses=tuple(compress(scored.group.responses, kept)))
    return ScoredGroup(group, tuple(compress(scored.components, kept)), tuple(compress(scored.rewards, kept)))


def _padded(values: Sequence[Sequence[float]], like_RT: Tensor) -> Tensor:
    out_RT = torch.zeros_like(like_RT)
    for row, some in enumerate(values):
        out_RT[row, : len(some)] = torch.tensor(some, dtype=like_RT.dtype, device=like_RT.device)
    return out_RT


def _mini_batches(batch: Batch, count: int) -> list[Batch]:
    """Contiguous runs of whole groups, with their annotations."""
    groups_each, size = len(batch.groups) // count, len(batch.groups[0].group.responses)
    rows_each = groups_each * size

    def cut(values: tuple[tuple[float, ...], ...] | None, index: int) -> tuple[tuple[float, ...], ...] | None:
        return None if values is None else values[index * rows_each : (index + 1) * rows_each]

    return [
        Batch(
            batch.groups[index * groups_each : (index + 1) * groups_each],
            cut(batch.old_logprobs, index),
            cut(batch.reference_logprobs, index),
        )
        for index in range(count)
    ]


def _join(parts: Sequence[UpdateReport]) -> UpdateReport:
    gaps = [part.gap for part in parts if part.gap is not None]
    return UpdateReport(
        credits=tuple(credit for part in parts for credit in part.credits),
        informative=sum(part.informative for part in parts),
        diagnostics=sum((part.diagnostics for part in parts), Diagnostics()),
        skipped=sum(part.skipped for part in parts),
        tokens=sum(part.tokens for part in parts),
        steps=tuple(step for part in parts for step in part.steps),
        gap=sum(gaps[1:], gaps[0]) if gaps else None,
    )
