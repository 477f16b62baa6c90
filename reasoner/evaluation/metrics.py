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
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from reasoner.config import Config
from reasoner.evaluation.intervals import Interval, change_interval, change_p, holm, mean_interval
from reasoner.records import Component, ScoredGroup

FigureUnit = Literal["share", "tokens", "reward", "nats", "number"]
ResponseVerdict = Literal["correct", "wrong", "not applicable", "failed"]
TASK = "task/"
"""how the names of figures and metrics of one task of several begin"""
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

    @classmethod
    def of_tasks(cls, config: Config) -> dict[str, Criterion]:
        """Of every task that the run evaluates on, by name."""
        return {name: cls.of(task) for name, task in config.evaluated.items()}

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
        applicable = [(parts[self.source], self.verdict(parts)) for parts in rows if self.source in parts]
        judged = any(verdict in ("correct", "wrong") for _, verdict in applicable)
        return [(part, verdict == "correct") for part, verdict in applicable if judged and verdict != "failed"]

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


def listed_criteria(criteria: Mapping[str, Criterion]) -> str:
    """What makes a response correct, of several tasks with their names: `math of math-gsm8k, code of code-stdin`."""
    several = len(criteria) > 1
    return ", ".join(f"{criterion} of {name}" if several else str(criterion) for name, criterion in criteria.items())


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
    tasks: Mapping[str, Evaluation] = field(default_factory=dict)
    """of a run that evaluates on several tasks: the evaluation of each part of a mixture, whose problems together are
    what the other fields are over; and of each further task (`evaluation.also`)"""
    best: str = ""
    """by which accuracy checkpoints are ranked: that of a task, `mean` of all, or empty for the own one; a step whose
    evaluation lacks it is none of the best"""

    @property
    def quality(self) -> tuple[float, float, float]:
        """What the checkpoints of a run are compared by: accuracy, then mean reward, then held-out loss, the lower the
        better."""
        reward = -math.inf if (figure := self.find("reward")) is None else figure.value
        accuracy = self._ranking_accuracy
        losses = [estimate.value for estimate in self.estimates if is_loss(estimate.name)]
        return accuracy, reward, -sum(losses) if losses else -math.inf

    @property
    def _ranking_accuracy(self) -> float:
        several = dict(self.tasks)
        if self.correct or not several:  # a single task; that of a mixture are its parts together
            several = {"": self, **several}
        ranking = several.values() if self.best == "mean" else [several.get(self.best) if self.best else self]
        accuracies = [
            evaluation.accuracy.value if evaluation and evaluation.accuracy else -math.inf for evaluation in ranking
        ]
        return fmean(accuracies)

    @property
    def figures(self) -> tuple[Estimate, ...]:
        """All estimates, those of tasks as `task/<task>/avg@1`."""
        of_tasks = (
            replace(estimate, name=f"{TASK}{name}/{estimate.name}")
            for name, task in self.tasks.items()
            for estimate in task.estimates
        )
        return (*self.estimates, *of_tasks)

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
        return next((estimate for estimate in self.figures if estimate.name == name), None)

    @property
    def accuracy(self) -> Estimate | None:
        """avg@k."""
        return next((figure for figure in self.estimates if figure.name == f"avg@{self.samples}"), None)


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
    holm: float | None = None
    """p after Holm's correction for the tasks whose accuracies are compared; None: there is but one comparison"""

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0, or there is none."""
        return self.low is None or self.high is None or self.low <= 0.0 <= self.high


def task_of(name: str) -> tuple[str, str]:
    """The task of a figure or a metric, and its name there; no task: an empty string.

    >>> task_of("task/math-gsm8k/reward/math"), task_of("avg@1")
    (('math-gsm8k', 'reward/math'), ('', 'avg@1'))
    """
    if not name.startswith(TASK):
        return "", name
    task, _, rest = name.removeprefix(TASK).partition("/")
    return task, rest


def is_accuracy(name: str) -> bool:
    """Whether a figure is the accuracy of the run or of one of its tasks."""
    return task_of(name)[1].startswith("avg@")


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


def combine_evaluations(tasks: Mapping[str, Evaluation]) -> Evaluation:
    """The parts of a mixture as one: every problem counts once, whichever part it is of. Figures that mean the same in
    all parts are over all problems."""
    samples = max(task.samples for task in tasks.values())
    alike = all(task.samples == samples for task in tasks.values())
    table: dict[tuple[str, FigureUnit], dict[str, float]] = {}
    for task in tasks.values():
        for name in (f"avg@{task.samples}", "finished", "length", "reward"):
            if (figure := task.find(name)) is not None:
                key = f"avg@{samples}" if is_accuracy(name) else name
                table.setdefault((key, figure.unit), {}).update(figure.by_problem)
    estimates = (estimate(name, unit, values, samples if alike else 0) for (name, unit), values in table.items())
    return Evaluation(
        problems=sum(task.problems for task in tasks.values()),
        samples=samples,
        abstained=sum(task.abstained for task in tasks.values()),
        estimates=tuple(estimates),
        tasks=tasks,
    )


def pass_rates(groups: Sequence[ScoredGroup], criterion: Criterion) -> dict[str, float]:
    """Problem id -> share of correct responses among those with a verdict; a group without any is left out."""
    verdicts = {scored.group.problem.id: criterion.verdicts(scored) for scored in groups}
    return {name: fmean(right for _, right in some) for name, some in verdicts.items() if some}


def compare(before: Evaluation, after: Evaluation) -> tuple[Difference, ...]:
    """The change of every figure that both have, over the problems for which both have it, of all tasks. Figures of
    correctness are left out where the two do not mean the same by it (`criteria_difference`)."""
    differences = list(_compared(before, after))
    for name, old in before.tasks.items():
        if (new := after.tasks.get(name)) is not None:
            differences += [replace(change, name=f"{TASK}{name}/{change.name}") for change in _compared(old, new)]
    # What a mixture has together says nothing new: each test is one of a task.
    tested = [
        at
        for at, difference in enumerate(differences)
        if is_accuracy(difference.name) and (task_of(difference.name)[0] or before.correct)
    ]
    if len(tested) > 1:
        for at, corrected in zip(tested, holm([differences[at].p for at in tested]), strict=True):
            differences[at] = replace(differences[at], holm=corrected)
    return tuple(differences)


def _compared(before: Evaluation, after: Evaluation) -> tuple[Difference, ...]:
    mixed = criteria_difference(before, after)
    named = {estimate.name: estimate for estimate in after.estimates}
    pairs = ((old, named.get(old.name)) for old in before.estimates if not (mixed and old.name.startswith(VERDICT)))
    differences = (_difference(old, new) for old, new in pairs if new is not None)
    return tuple(difference for difference in differences if difference is not None)


def criteria_difference(before: Evaluation, after: Evaluation) -> str:
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
        values["length", "tokens"] = [float(r.policy_mask.count(True)) for r in responses]
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
