"""Offline responses that are held out (`data.holdout`), measured by the learner: no sampler is needed.

Every row is put through the terms that read its source, alone and with their own loss, so that a figure is a mean over
rows with an interval, and is compared row by row:

    term/<term>/loss      the term's loss of the row
    term/<term>/accuracy  pairs whose chosen response has more evidence; a tie counts a half: against a reference
                          policy every pair is one before training
    term/<term>/margin    difference of the pair's evidence
    term/<term>/logprob   mean log-probability per token of the chosen, good or demonstrated response

The names are those of the training's metrics, so that the two are seen side by side. All ranks measure together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from reasoner.distributed.sharding import LogprobModel
from reasoner.evaluation.metrics import Estimate, FigureUnit, estimate
from reasoner.gro.objective import weigh
from reasoner.gro.spec.terms import Source, Term
from reasoner.gro.term_plan import credit_of, plan
from reasoner.records import Batch, Group, LogProbs, ScoredGroup
from reasoner.sampling.base import Progress
from reasoner.training.objective_inputs import inputs_of, padded
from reasoner.training.update import mismatch
from reasoner.training.weight_sync import sum_in_order

AT_ONCE = 64
"""rows whose log-probabilities are asked for together: progress is told in between"""
GOOD = 1.0
"""reward of a chosen, good or demonstrated response"""


@dataclass
class HeldOut:
    """The held-out rows of a run, and what measures them."""

    rows: Mapping[Source, Sequence[ScoredGroup]]
    """of every source that a term reads"""
    terms: Mapping[str, Term]
    """bound to the functions of plugins"""
    learner: LogprobModel
    reference: LogprobModel | None
    """frozen; None: no term asks for it"""
    max_tokens: int
    """The longest online response allowed, which `aggregation.kind = "constant"` divides by."""
    _reference: dict[str, Sequence[LogProbs]] = field(default_factory=dict)
    """its log-probabilities of what was asked for: they do not change"""

    @property
    def count(self) -> int:
        """Rows in all."""
        return sum(map(len, self.rows.values()))

    def measure(self, progress: Progress) -> tuple[Estimate, ...]:
        """The figures of every term under the learner's present weights; all ranks call it together."""
        estimates: list[Estimate] = []
        for source, rows in self.rows.items():
            terms = {name: term for name, term in self.terms.items() if term.source == source}
            estimates += self._measure(source, rows, terms, progress)
        return tuple(estimates)

    def _measure(
        self, source: Source, rows: Sequence[ScoredGroup], terms: Mapping[str, Term], progress: Progress
    ) -> Iterator[Estimate]:
        groups = [scored.group for scored in rows]
        now = iter(_logprobs(self.learner, groups, progress))
        compares = any(term.needs_reference for term in terms.values())
        before = iter(self._reference_logprobs(source, groups) if compares else ())
        z0 = self._kl(source, groups) if any(term.anchor.kind == "kl" for term in terms.values()) else None
        table: dict[tuple[str, FigureUnit], dict[str, float]] = {}
        for scored in rows:
            size = len(scored.group.responses)
            logprobs_RT = [next(now) for _ in range(size)]
            reference_RT = tuple(next(before) for _ in range(size)) if compares else None
            batch = Batch((scored,), reference_logprobs=reference_RT)
            for name, term in terms.items():
                for (figure, unit), value in _figures(term, batch, logprobs_RT, self.max_tokens, z0).items():
                    if math.isfinite(value):
                        table.setdefault((f"term/{name}/{figure}", unit), {})[scored.group.problem.id] = value
        for (name, unit), by_row in table.items():
            yield estimate(name, unit, by_row, 1)

    def _kl(self, source: Source, groups: Sequence[Group]) -> float:
        """As the update estimates it for the anchor `kl` (2402.01306), over all rows."""
        moved = mismatch(groups)
        now = _logprobs(self.learner, moved)
        before = self._reference_logprobs(f"{source}, mismatched", moved)
        return max(0.0, sum(sum_in_order(a) - sum_in_order(b) for a, b in zip(now, before, strict=True)) / len(now))

    def _reference_logprobs(self, what: str, groups: Sequence[Group]) -> Sequence[LogProbs]:
        assert self.reference is not None
        if what not in self._reference:
            self._reference[what] = _logprobs(self.reference, groups)
        return self._reference[what]


def _logprobs(
    policy: LogprobModel, groups: Sequence[Group], progress: Progress = lambda done, total: None
) -> Sequence[LogProbs]:
    """(R)(T), some groups at a time."""
    logprobs: list[LogProbs] = []
    for first in range(0, len(groups), AT_ONCE):
        progress(first, len(groups))
        logprobs += policy.logprobs(groups[first : first + AT_ONCE], 1.0)
    progress(len(groups), len(groups))
    return logprobs


def _figures(
    term: Term, batch: Batch, logprobs_RT: Sequence[LogProbs], max_tokens: int, z0: float | None
) -> dict[tuple[str, FigureUnit], float]:
    """Of one row, alone."""
    inputs = inputs_of(batch)
    planned = plan("row", term, inputs, credit_of(term, inputs), max_tokens, z0=z0)
    now_RT = padded(logprobs_RT, torch.float32)
    _, diagnostics = weigh([planned], inputs, range(len(logprobs_RT)), now_RT)
    sums = diagnostics["row"]
    figures: dict[tuple[str, FigureUnit], float] = {("loss", "number"): sums.loss}
    if sums.pairs:
        figures["accuracy", "share"] = 0.5 if sums.margin == 0.0 else float(sums.pairs_right)
        figures["margin", "number"] = sums.margin
    good = [
        np.asarray(logprobs)[np.asarray(response.policy_mask)].tolist()
        for reward, response, logprobs in zip(batch.groups[0].rewards, batch.responses, logprobs_RT, strict=True)
        if reward == GOOD
    ]
    if tokens := sum(map(len, good)):
        figures["logprob", "nats"] = math.fsum(chain(*good)) / tokens
    return figures
