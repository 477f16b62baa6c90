"""The update stage: the batches of a step become one or more optimiser steps.

Here the two halves meet that never mix: the objective (`reasoner.gro`) turns log-probabilities into weights, the
learner turns weights into a gradient. Responses that cannot get weight are left out before the learner sees them; the
gradient is the same without them. The terms that read one source share its forward passes; the gradients of several
sources add up before the optimiser steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.distributed.sharding import Selection
from reasoner.gro.diagnostics import Diagnostics
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.objective import weigh
from reasoner.gro.pairs import units
from reasoner.gro.spec.terms import Source, Term
from reasoner.gro.term_plan import TermPlan, credit_of, plan
from reasoner.gro.weights import Weights
from reasoner.io.token_array import TokenArray
from reasoner.learning.learner import Accumulated, Learner, StepResult
from reasoner.records import Batch, Group, NonFiniteResponse
from reasoner.training.critic_update import Critic, CriticReport, update_critic
from reasoner.training.guards.nonfinite import StepTrace
from reasoner.training.objective_inputs import fetch_sampler_logprobs, inputs_of
from reasoner.training.weight_sync import Gap, sum_in_order

UpdateProgress = Callable[[int, int], None]
"""`(responses done, responses in all)`"""


@dataclass(frozen=True, slots=True)
class ActiveTerm:
    """A term at one training step, bound to the functions of plugins."""

    name: str
    term: Term
    weight: float
    """lambda, above 0."""


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What the update stage did with the batches of a step."""

    credits: tuple[float, ...]
    """(R,) The credit of every online response for the first term that reads it (the mean over its tokens where credit
    is per token); 0 where it abstained."""
    weights: tuple[Sequence[float], ...]
    """(R)(T) The weight of every token of every online response, summed over the optimiser steps; on ranks other than
    the first 0 for responses that others put through the model."""
    terms: Mapping[str, tuple[float, Diagnostics, int]]
    """For each term by name: lambda, the diagnostics of its weights, and the tokens that it counts, over all optimiser
    steps."""
    responses: int
    """The responses of all sources and passes."""
    done: tuple[Accumulated, ...]
    """What the learner accumulated, by mini-batch and source."""
    steps: tuple[StepResult, ...]
    """The optimiser steps, one per mini-batch and pass."""
    entropy: float | None
    """The entropy of the policy, mean over its tokens that went through the model, nats; None: no term needs it."""
    gap: Gap | None
    """The gap between sampler and learner over the online responses that were trained on; None: there are none."""
    critic: CriticReport | None
    nonfinite: tuple[NonFiniteResponse, ...] = ()
    """The responses of the optimiser steps, the critic's included, whose loss or gradient was not finite."""
    teacher_kl: float | None = None
    """The KL to the teacher over the online batch (`teacher_kl`), nats; None: there is no teacher."""

    @property
    def skipped(self) -> list[str]:
        """The reasons why optimiser steps were skipped, as lines for the log."""
        critic = self.critic.steps if self.critic else ()
        return [
            *(f"no update: {step.reason}" for step in self.steps if not step.applied),
            *(f"no update of the critic: {step.reason}" for step in critic if not step.finite),
        ]

    @property
    def metrics(self) -> dict[str, float]:
        """The update's rows of the metrics table (`reasoner.monitoring.metrics`)."""
        last = self.steps[-1]
        values = {
            "update/loss": sum(part.loss for part in self.done),
            "update/grad_norm": last.grad_norm,
            "update/learning_rate": last.learning_rate,
            "update/applied": sum(step.applied for step in self.steps) / len(self.steps),
            "update/not_finite": float(sum(not step.finite for step in self.steps)),
            "update/responses_skipped": float(self.responses - sum(part.responses for part in self.done)),
            "update/tokens": float(sum(part.tokens for part in self.done)),
        }
        for name, (weight, diagnostics, tokens) in self.terms.items():
            values |= {f"term/{name}/{key}": value for key, value in diagnostics.metrics(weight, tokens).items()}
        if self.credits:
            values["credit/abs_mean"] = sum(map(abs, self.credits)) / len(self.credits)
        if self.gap is not None:
            values |= {"gap/mean": self.gap.mean, "gap/max": self.gap.max, "gap/k3": self.gap.k3}
        if self.teacher_kl is not None:
            values["teacher/kl"] = self.teacher_kl
        if self.entropy is not None:
            values["entropy"] = self.entropy
        if any(part.balance for part in self.done):
            values["update/router_balance"] = sum(part.balance for part in self.done) / sum(
                part.responses for part in self.done
            )
        if replayed := sum(part.replayed for part in self.done):
            values["update/rerouted"] = sum(part.rerouted for part in self.done) / replayed
        return values | (self.critic.metrics if self.critic else {})


def update(
    batches: Mapping[Source, Batch],
    terms: Sequence[ActiveTerm],
    learner: Learner,
    *,
    max_tokens: int,
    steps: int = 1,
    epochs: int = 1,
    critic: Critic | None = None,
    value_clip: float | None = None,
    ranks: Ranks = ALONE,
    progress: UpdateProgress = lambda done, total: None,
) -> UpdateReport:
    """`epochs` passes over the batches, each with one optimiser step per mini-batch of whole groups.

    Args:
        batches: annotated groups by source; with several optimiser steps online ones must carry `old_logprobs`.
        terms: the objective at this step; each has a batch.
        learner: accumulates the weighted log-likelihood and steps.
        max_tokens: the longest response allowed, in tokens.
        steps: mini-batches per pass.
        critic: updated beside the policy where a term's baseline is a critic.
        value_clip: how far a value may move before its loss is clipped; None: off.
        ranks: those that the learner spreads a batch over; all of them are here with the same batches.
        progress: told how many of a mini-batch's responses have been weighed, of how many.
    """
    prepared = {
        source: Prepared.of(batch, [term for term in terms if term.term.source == source], max_tokens, ranks)
        for source, batch in batches.items()
    }
    results: list[StepResult] = []
    done: list[Accumulated] = []
    totals: dict[str, tuple[float, Diagnostics, int]] = {}
    gaps: list[Gap] = []
    entropies: list[tuple[float, int]] = []
    nonfinite: list[NonFiniteResponse] = []
    online = prepared.get("online")
    weights_RT = [np.zeros(len(r.token_ids)) for r in online.batch.responses] if online else []
    for epoch, mini in product(range(epochs), range(steps)):
        objectives = [source.objective(mini, steps, learner, progress) for source in prepared.values()]
        for objective in objectives:
            objective.measures_gap = epoch == 0 and objective.plans[0].term.source == "online"
        accumulated = [objective.accumulate(learner, ranks) for objective in objectives]
        for objective in objectives:
            objective.join(ranks)
        done += accumulated
        results.append(learner.step())
        for objective, parts in zip(objectives, accumulated, strict=True):
            objective.seen.join(ranks, results[-1].finite)
            nonfinite += [] if results[-1].finite else objective.nonfinite
            entropies += [(parts.entropy, objective.tokens)] if objective.needs_entropy else []
            for term_plan in objective.plans:
                _, diagnostics, tokens = totals.get(term_plan.name, (0.0, Diagnostics(), 0))
                diagnostics += objective.diagnostics.get(term_plan.name, Diagnostics())
                totals[term_plan.name] = (term_plan.weight, diagnostics, tokens + term_plan.tokens)
            gaps += [objective.gap] if objective.gap else []
            if objective.plans[0].term.source == "online":
                objective.add_weights(weights_RT)
    critic_report = _update_critic(critic, value_clip, online, steps, epochs, ranks)
    return UpdateReport(
        credits=online.credits if online else (),
        weights=tuple(TokenArray(row, "float64") for row in weights_RT),
        terms=totals,
        responses=epochs * sum(len(source.batch.responses) for source in prepared.values()),
        done=tuple(done),
        steps=tuple(results),
        teacher_kl=teacher_kl(online.batch) if online else None,
        entropy=sum(h for h, _ in entropies) / max(sum(n for _, n in entropies), 1) if entropies else None,
        gap=sum(gaps[1:], gaps[0]) if gaps else None,
        critic=critic_report,
        nonfinite=(*nonfinite, *(critic_report.nonfinite if critic_report else ())),
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """The batch of one source, with what is computed once for all its optimiser steps."""

    batch: Batch
    terms: Sequence[ActiveTerm]
    inputs: ObjectiveInputs
    credits_KRT: Sequence[Tensor]
    """The credit for each term: (R, 1), or (R, T) where it is per token."""
    max_tokens: int

    @classmethod
    def of(cls, batch: Batch, terms: Sequence[ActiveTerm], max_tokens: int, ranks: Ranks = ALONE) -> Prepared:
        inputs = inputs_of(batch)
        if any(active.term.anchor.kind == "kl" for active in terms):  # its z0 is a mean over the whole batch
            fetch_sampler_logprobs(inputs, batch, range(len(batch.responses)), ranks)
        return cls(batch, terms, inputs, [credit_of(active.term, inputs) for active in terms], max_tokens)

    @property
    def credits(self) -> tuple[float, ...]:
        """(R,) credit for the first term."""
        credit_RT = self.credits_KRT[0]
        if credit_RT.shape[1] > 1:
            credit_RT = credit_RT.sum(dim=1, keepdim=True) / self.inputs.lengths_R.clamp(min=1)[:, None]
        return tuple(credit_RT[:, 0].tolist())

    def objective(self, mini: int, count: int, learner: Learner, progress: UpdateProgress) -> Objective:
        """Fix normalisers and pairs of mini-batch `mini` of `count`, and leave out what cannot get weight."""
        rows = self.rows(mini, count)
        z0 = self._mismatched_kl(rows, learner)
        plans = [
            plan(active.name, active.term, self.inputs, credit_RT, self.max_tokens, active.weight, z0, rows)
            for active, credit_RT in zip(self.terms, self.credits_KRT, strict=True)
        ]
        active = torch.stack([plan.active_R for plan in plans]).any(dim=0).nonzero().flatten().tolist()
        progress(0, len(active))
        return Objective(plans=plans, inputs=self.inputs, batch=self.batch, rows=active, progress=progress)

    def rows(self, mini: int, count: int) -> list[int]:
        """The responses of a mini-batch: a contiguous run of whole groups, of equal size as far as that goes."""
        groups, size = len(self.batch.groups), self.inputs.rewards_NG.shape[1]
        first, last = groups * mini // count, groups * (mini + 1) // count
        return list(range(first * size, last * size))

    def _mismatched_kl(self, rows: Sequence[int], learner: Learner) -> float | None:
        """max(0, mean over responses of sum_t (l - l_ref)) of responses put to each other's prompts (2402.01306)."""
        mismatched = self.batch.mismatched
        if mismatched is None or not rows:
            return None
        current = learner.logprobs([mismatched.groups[row] for row in rows], self.batch.temperature)
        total = sum(
            sum_in_order(now) - sum_in_order(mismatched.reference_logprobs[row])
            for row, now in zip(rows, current, strict=True)
        )
        return max(0.0, total / len(rows))


@dataclass(slots=True)
class Objective:
    """The weight function of one mini-batch of a source: the learner calls it with the log-probabilities of each
    micro-batch."""

    plans: Sequence[TermPlan]
    inputs: ObjectiveInputs
    batch: Batch
    rows: list[int]
    """The rows of the batch's responses that can get weight."""
    progress: UpdateProgress
    measures_gap: bool = False
    """Whether to compare sampler and learner: for online responses, at the first pass."""
    weighed: int = 0
    diagnostics: dict[str, Diagnostics] = field(default_factory=dict)
    gap: Gap | None = None
    seen: StepTrace = field(default_factory=StepTrace)

    def accumulate(self, learner: Learner, ranks: Ranks = ALONE) -> Accumulated:
        """Add the mini-batch's gradient."""
        groups = [scored.group for scored in self.batch.groups]
        pairs_P2 = torch.cat([plan.pairs_P2 for plan in self.plans if plan.term.evidence.unit == "pair"] or [_NO_PAIRS])
        unit_ids = units(len(self.batch.responses), pairs_P2)
        selection = Selection.of(groups, self.rows, unit_ids, ranks)
        own = [row for part in selection.share for row in part.rows]
        fetch_sampler_logprobs(self.inputs, self.batch, own, ranks)
        return learner.accumulate(groups, self, self.batch.temperature, selection=selection, entropy=self.needs_entropy)

    def join(self, ranks: Ranks) -> None:
        """Combine the diagnostics of all ranks, each of which weighed its share of the mini-batch."""
        of_ranks = ranks.gather_shares((self.diagnostics, self.gap))
        names = dict.fromkeys(name for diagnostics, _ in of_ranks for name in diagnostics)
        self.diagnostics = {
            name: sum((diagnostics.get(name, Diagnostics()) for diagnostics, _ in of_ranks), Diagnostics())
            for name in names
        }
        gaps = [gap for _, gap in of_ranks if gap]
        self.gap = sum(gaps[1:], gaps[0]) if gaps else None

    @property
    def nonfinite(self) -> tuple[NonFiniteResponse, ...]:
        """The responses behind a step that was not finite."""
        return self.seen.nonfinite("policy", self.plans[0].term.source, self.batch.groups)

    @property
    def needs_entropy(self) -> bool:
        """Whether some term needs the entropy of every position."""
        return any(plan.term.needs_entropy for plan in self.plans)

    @property
    def tokens(self) -> int:
        """The policy's tokens in active responses."""
        return int(self.inputs.lengths_R[self.rows].sum())

    def __call__(self, rows: Sequence[int], logprobs_RT: Tensor, entropies_RT: Tensor | None) -> Weights:
        """Weights of the responses `rows` of the batch under their current log-probabilities."""
        weights, diagnostics = weigh(self.plans, self.inputs, rows, logprobs_RT, entropies_RT)
        for name, diagnosed in diagnostics.items():
            self.diagnostics[name] = self.diagnostics.get(name, Diagnostics()) + diagnosed
        self.seen.add(rows, logprobs_RT, weights.weights_RT)
        self.weighed += len(rows)
        self.progress(self.weighed, len(self.rows))
        if self.measures_gap:
            self._measure_gap(rows, logprobs_RT)
        return weights

    def add_weights(self, weights_RT: Sequence[NDArray[np.float64]]) -> None:
        """Add the weights of the active responses to those of all R, in place."""
        for rows, _, found_RT in self.seen.parts:
            for row, padded_T in zip(rows, found_RT, strict=True):
                weights_RT[row] += padded_T[: len(weights_RT[row])]

    def _measure_gap(self, rows: Sequence[int], logprobs_RT: Tensor) -> None:
        """Sampler against learner: the learner's log-probabilities when the batch arrived."""
        assert self.inputs.sampler_RT is not None
        width = logprobs_RT.shape[1]
        mask_RT = self.inputs.mask_RT[rows, :width]
        if not mask_RT.any():
            return
        learner_RT = logprobs_RT.cpu() if self.inputs.old_RT is None else self.inputs.old_RT[rows, :width]
        sampler_RT = self.inputs.sampler_RT[rows, :width]
        gap = Gap.between(learner_RT[mask_RT].numpy(), sampler_RT[mask_RT].numpy())
        self.gap = gap if self.gap is None else self.gap + gap


_NO_PAIRS = torch.empty(0, 2, dtype=torch.int64)


def mismatch(groups: Sequence[Group]) -> list[Group]:
    """Every group's prompt with the responses of the group after it, the last one's with the first's."""
    return [
        replace(group, responses=following.without_routes().responses)
        for group, following in zip(groups, [*groups[1:], *groups[:1]], strict=True)
    ]


def teacher_kl(batch: Batch) -> float | None:
    """The old policy's log-probability minus the teacher's, mean over the policy's tokens, nats; None: there is no
    teacher."""
    if batch.teacher_logprobs is None or batch.old_logprobs is None:
        return None
    gaps = [
        np.subtract(old, teacher, dtype=np.float64)[np.asarray(response.policy_mask)]
        for response, old, teacher in zip(batch.responses, batch.old_logprobs, batch.teacher_logprobs, strict=True)
    ]
    gap_S = np.concatenate(gaps) if gaps else np.zeros(0)
    return sum_in_order(gap_S) / max(len(gap_S), 1)


def _update_critic(
    critic: Critic | None, value_clip: float | None, online: Prepared | None, steps: int, epochs: int, ranks: Ranks
) -> CriticReport | None:
    """Make the critic's optimiser steps over the same mini-batches; None: no term has a critic at this step."""
    if critic is None or online is None:
        return None
    term = next((active.term for active in online.terms if active.term.needs_critic), None)
    if term is None:
        return None
    minis = [online.rows(mini, steps) for mini in range(steps)] * epochs
    return update_critic(critic, term, online.inputs, online.batch.groups, minis, value_clip, ranks)
