"""Evaluation: responses to held-out problems as figures with 95% intervals, and the paired difference of two of them.

Every figure is a mean over problems of a per-problem value, so a problem counts once however many responses it has:

    avg@k    share of correct responses
    pass@j   1 - C(n - c, j) / C(n, j) for c correct of n responses (unbiased, 2107.03374), for j = 2, 4, 8, ... and k
    maj@k    1 if the most frequent extracted answer is correct. Responses without an answer do not vote; no vote: 0;
             a tie: the mean over the tied answers (the expected value of picking one at random)
    finished share of responses that ended by themselves
    parsable share of responses from which the verifier extracted an answer
    length   tokens per response that the policy wrote
    reward   total reward, and `reward/<source>` for each component before weighting, where it applied

A response is correct when the deciding source gives it at least `evaluation.threshold` (`Criterion`). The figures that
need a verdict (`VERDICT`) are over the problems that were judged: those to which the deciding source applies, so that
it gave some response a value. `judged` counts them. A response whose verifier failed is counted as abstained and left
out. `parsable`, `maj@k` need a source that puts `extracted` (the answer, or None) into its parts. Intervals:
`reasoner.evaluation.intervals`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from reasoner.config import Config
from reasoner.evaluation.intervals import Interval, change_interval, change_p, mean_interval
from reasoner.records import Component, ScoredGroup

FigureUnit = Literal["share", "tokens", "reward", "nats", "number"]
ResponseVerdict = Literal["correct", "wrong", "not applicable", "failed"]
VERDICT = ("avg@", "pass@", "maj@", "parsable")
"""how the names of the figures begin that are over the problems that were judged"""


@dataclass(frozen=True, slots=True)
class Criterion:
    """What makes a response correct: the deciding source gives it at least the threshold."""

    source: str
    threshold: float = 1.0
    conditions: tuple[str, ...] = ()
    """the source's `when`, the `when` of that one, and so on"""

    @classmethod
    def of(cls, config: Config) -> Criterion:
        """As configured.

        Raises:
            ConfigError: `evaluation` is not set.
        """
        evaluation = config.required_evaluation
        return cls.chained(evaluation.correct, evaluation.threshold, config.conditions)

    @classmethod
    def chained(cls, source: str, threshold: float, conditions: Mapping[str, str]) -> Criterion:
        """With the deciding source's conditions followed.

        Args:
            conditions: reward source -> the one that it is `when`; never in a circle (the configuration refuses it).
        """
        chain: list[str] = []
        while (last := chain[-1] if chain else source) in conditions and conditions[last] not in chain:
            chain.append(conditions[last])
        return cls(source, threshold, tuple(chain))

    def __str__(self) -> str:
        """`math`, or `judge >= 0.8`: what is not said is at least 1."""
        return self.source if self.threshold == 1.0 else f"{self.source} >= {self.threshold:g}"

    def verdicts(self, scored: ScoredGroup) -> list[tuple[Component, bool]]:
        """The deciding source's verdicts on the responses to a problem, each with whether it is correct.

        Whether a source applies is a matter of the problem and not of the response: where it gave some response a
        value, one that it gave none is not correct. Where it gave none to any, the problem is not judged, and there are
        no verdicts. A response that did not meet the source's condition (`when`) is not correct either. Those on which
        the source or a condition failed are left out.
        """
        rows = ({part.source: part for part in row} for row in scored.components)
        found = [(parts[self.source], self.verdict(parts)) for parts in rows if self.source in parts]
        judged = any(verdict in ("correct", "wrong") for _, verdict in found)
        return [(part, verdict == "correct") for part, verdict in found if judged and verdict != "failed"]

    def verdict(self, parts: Mapping[str, Component]) -> ResponseVerdict:
        """On one response, by its components."""
        if self.source not in parts:
            return "not applicable"
        decides = parts[self.source]
        if decides.failure is not None:
            return "failed"
        if decides.value is not None:
            return "correct" if decides.value >= self.threshold else "wrong"
        for condition in (parts[name] for name in self.conditions if name in parts):
            if condition.failure is not None:
                return "failed"
            if condition.value is not None:  # above 0 the source was called, and had nothing to say
                return "wrong" if condition.value <= 0.0 else "not applicable"
        return "not applicable"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure over the problems that have it, with its 95% interval."""

    name: str
    unit: FigureUnit
    value: float
    low: float | None
    high: float | None
    interval: Interval
    """how low and high were found"""
    by_problem: Mapping[str, float]
    """problem id -> its value: what `compare` pairs"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one evaluation."""

    problems: int
    samples: int
    """responses per problem"""
    abstained: int
    """responses with a failed verdict"""
    estimates: tuple[Estimate, ...]
    correct: str = ""
    """the deciding source; empty: not known, or nothing was sampled"""
    threshold: float = 1.0
    """its value from which on a response is correct"""
    rows: int = 0
    """held-out rows of offline data that the learner measured (`reasoner.training.held_out`)"""

    @property
    def quality(self) -> tuple[float, float, float]:
        """What the checkpoints of a run are compared by: accuracy, then mean reward, then held-out loss, the lower the
        better."""
        figures = (self.accuracy, self.find("reward"))
        accuracy, reward = (-math.inf if figure is None else figure.value for figure in figures)
        losses = [estimate.value for estimate in self.estimates if is_loss(estimate.name)]
        return accuracy, reward, -sum(losses) if losses else -math.inf

    @property
    def held_out(self) -> tuple[Estimate, ...]:
        """The figures of held-out rows."""
        return tuple(estimate for estimate in self.estimates if is_held_out(estimate.name))

    @property
    def judged(self) -> int:
        """Problems to which the deciding source applies: those that accuracy is over."""
        return len(self.accuracy.by_problem) if self.accuracy else 0

    def find(self, name: str) -> Estimate | None:
        """The figure of that name; None when no response had what it needs."""
        return next((estimate for estimate in self.estimates if estimate.name == name), None)

    @property
    def accuracy(self) -> Estimate | None:
        """avg@k."""
        return self.find(f"avg@{self.samples}")


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before, paired by problem, with its 95% interval."""

    name: str
    unit: FigureUnit
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    interval: Interval
    problems: int
    """problems with a value in both"""
    rose: int
    """problems whose value rose"""
    fell: int
    """problems whose value fell"""
    p: float
    """of no change: McNemar's exact test, or sign flips (`intervals.change_p`)"""

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0, or there is none."""
        return self.low is None or self.high is None or self.low <= 0.0 <= self.high


def is_held_out(name: str) -> bool:
    """Whether a figure is one of held-out rows: named as the metric of a term."""
    return name.startswith("term/")


def is_loss(name: str) -> bool:
    """Whether a figure is the better the lower it is."""
    return is_held_out(name) and name.endswith("/loss")


def summarise(groups: Sequence[ScoredGroup], samples: int, criterion: Criterion) -> Evaluation:
    """The figures of scored groups, also of saved ones."""
    abstained = sum(
        reward is None or any(component.failure for component in components)
        for scored in groups
        for reward, components in zip(scored.rewards, scored.components, strict=True)
    )
    estimates = (
        estimate(name, unit, values, samples)
        for (name, unit), values in _by_problem(groups, samples, criterion).items()
        if values
    )
    return Evaluation(len(groups), samples, abstained, tuple(estimates), criterion.source, criterion.threshold)


def pass_rates(groups: Sequence[ScoredGroup], criterion: Criterion) -> dict[str, float]:
    """Problem id -> share of correct responses among those with a verdict; a group without any is left out."""
    verdicts = {scored.group.problem.id: criterion.verdicts(scored) for scored in groups}
    return {name: fmean(right for _, right in some) for name, some in verdicts.items() if some}


def compare(before: Evaluation, after: Evaluation) -> tuple[Difference, ...]:
    """The change of every figure that both have, over the problems for which both have it. Figures of correctness are
    left out where the two do not mean the same by it (`why_not_comparable`)."""
    mixed = why_not_comparable(before, after)
    pairs = ((old, after.find(old.name)) for old in before.estimates if not (mixed and old.name.startswith(VERDICT)))
    differences = (_difference(old, new) for old, new in pairs if new is not None)
    return tuple(difference for difference in differences if difference is not None)


def why_not_comparable(before: Evaluation, after: Evaluation) -> str:
    """Why two evaluations mean different things by a correct response; empty: they do not."""
    if not before.correct or not after.correct:
        return ""
    sides = [(side.correct, side.threshold) for side in (before, after)]
    if sides[0] == sides[1]:
        return ""
    said = " and by ".join(f"{source} >= {threshold:g}" for source, threshold in sides)
    return f"What counts as correct differs (by {said}): its figures are not compared."


def pass_at(k: int, n: int, c: int) -> float:
    """Probability that k of n responses, c of them correct, drawn without putting back, hold a correct one."""
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, got k={k}, n={n}, c={c}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers: Sequence[Any], correct: Sequence[bool]) -> float:
    """maj@k of one problem: answers as extracted (None or "": no vote), and whether each response is correct."""
    votes: dict[str, list[bool]] = defaultdict(list)
    for answer, right in zip(answers, correct, strict=True):
        if _present(answer):
            votes[json.dumps(answer, sort_keys=True)].append(right)
    if not votes:
        return 0.0
    most = max(len(group) for group in votes.values())
    return fmean(fmean(group) for group in votes.values() if len(group) == most)


Table = dict[tuple[str, FigureUnit], dict[str, float]]


def _by_problem(groups: Sequence[ScoredGroup], samples: int, criterion: Criterion) -> Table:
    """(figure, unit) -> problem id -> value, in the order of the report."""
    table: Table = defaultdict(dict)
    extracts = any("extracted" in part.parts for scored in groups for part, _ in criterion.verdicts(scored))
    ks = sorted({2**i for i in range(1, samples.bit_length()) if 2**i <= samples} | ({samples} - {1}))
    for scored in groups:
        verdicts = criterion.verdicts(scored)
        right = [correct for _, correct in verdicts]
        answers = [part.parts.get("extracted") for part, _ in verdicts]
        values: dict[tuple[str, FigureUnit], list[float]] = {(f"avg@{samples}", "share"): [float(r) for r in right]}
        for k in ks:
            values[f"pass@{k}", "share"] = [pass_at(k, len(right), sum(right))] if len(right) >= k else []
        if extracts and samples > 1:
            values[f"maj@{samples}", "share"] = [majority(answers, right)] if right else []
        responses = scored.group.responses
        values["finished", "share"] = [float(r.finish_reason == "stop") for r in responses]
        if extracts:
            values["parsable", "share"] = [float(_present(answer)) for answer in answers]
        values["length", "tokens"] = [float(sum(r.policy_mask)) for r in responses]
        values["reward", "reward"] = [reward for reward in scored.rewards if reward is not None]
        for component in (c for components in scored.components for c in components):
            known = values.setdefault((f"reward/{component.source}", "reward"), [])
            if component.value is not None and component.failure is None:
                known.append(component.value)
        for key, known in values.items():
            table[key].update({scored.group.problem.id: fmean(known)} if known else {})
    return table


def _present(answer: Any) -> bool:
    return answer is not None and answer != ""


def estimate(name: str, unit: FigureUnit, by_problem: Mapping[str, float], samples: int) -> Estimate:
    """A figure from its value for each problem.

    Args:
        samples: responses that a share is one of.
    """
    values = list(by_problem.values())
    mean = fmean(values)
    low, high, interval = mean_interval(values, unit == "share", samples)
    return Estimate(name, unit, mean, low, high, interval, by_problem)


def _difference(old: Estimate, new: Estimate) -> Difference | None:
    shared = [problem for problem in old.by_problem if problem in new.by_problem]
    if not shared:
        return None
    before = [old.by_problem[problem] for problem in shared]
    after = [new.by_problem[problem] for problem in shared]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    low, high, interval = change_interval(changes, old.unit == "share")
    return Difference(
        name=old.name,
        unit=old.unit,
        before=fmean(before),
        after=fmean(after),
        change=fmean(changes),
        low=low,
        high=high,
        interval=interval,
        problems=len(shared),
        rose=sum(change > 0 for change in changes),
        fell=sum(change < 0 for change in changes),
        p=change_p(changes),
    )
