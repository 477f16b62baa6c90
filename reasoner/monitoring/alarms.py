"""Warnings about a run that goes wrong, found in its figures so far. A warning stops nothing: it says what it saw and
what to try.

Every rule compares the last steps with the first, or with a fixed bound; the thresholds leave room for what healthy
runs do, and the reason for each stands with it. Rules are pure: the metrics of the steps and the evaluations so far in,
a finding out. They are asked after every step, so none may take longer with a longer history.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from reasoner.evaluation.metrics import Evaluation
from reasoner.io.metric_history import MetricHistory
from reasoner.monitoring.format import number
from reasoner.monitoring.metrics import by_task, sources, terms

SPAN = 3
"""steps over which a figure is averaged: one odd batch is not a trend"""
BACK = 20
"""steps between what is compared where a change matters by its speed"""
QUIET = 20
"""steps that a rule must find nothing before its warning is over: a figure near its bound warns once, not every step"""

History = Sequence[Mapping[str, float]]
"""the metrics of every step so far"""
ByProblem = Mapping[str, float]
"""problem id -> share of right answers"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule sees in a run."""

    what: str
    """with its numbers, short enough for a line"""
    advice: str
    """what to try"""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that holds: a line of `warnings.jsonl`."""

    step: int
    """at which it began"""
    name: str
    what: str
    advice: str


@dataclass(slots=True)
class Evaluations:
    """What the rules need of all evaluations so far."""

    sampled: bool = False
    """one of them sampled responses"""
    names: set[str] = field(default_factory=set)
    """of the figures that one of them had"""
    peak: tuple[int, ByProblem] | None = None
    """the best two in a row, averaged, and the step of the later one; None: there are not three such pairs yet"""
    pairs: deque[tuple[int, ByProblem]] = field(default_factory=lambda: deque(maxlen=3))
    """the last of them"""
    latest: ByProblem | None = None
    """accuracy of the last one that had it"""

    @classmethod
    def of(cls, evaluations: Iterable[tuple[int, Evaluation]]) -> Evaluations:
        """Of `(steps before it, evaluation)`, oldest first."""
        result = cls()
        for step, evaluation in evaluations:
            result.add(step, evaluation)
        return result

    def add(self, step: int, evaluation: Evaluation) -> None:
        """Add one that was made after `step` steps."""
        self.sampled = self.sampled or bool(evaluation.samples)
        self.names |= {estimate.name for estimate in evaluation.figures}
        if evaluation.accuracy is None:
            return
        before, self.latest = self.latest, evaluation.accuracy.by_problem
        if before is None:
            return
        self.pairs.append((step, _mean_of(before, self.latest)))
        if len(self.pairs) == 3 and (self.peak is None or _level(self.pairs[0][1]) > _level(self.peak[1])):
            self.peak = self.pairs[0]  # the last two are not compared with themselves


class AlarmMonitor:
    """Which warnings hold: each begins once and is over when its rule has found nothing for `QUIET` steps.

    Args:
        history: of a run that is resumed.
        evaluations: of that run, `(steps before it, evaluation)`, oldest first.
    """

    def __init__(self, history: History = (), evaluations: Iterable[tuple[int, Evaluation]] = ()) -> None:
        self.raised: list[Warned] = []
        """all warnings so far, in order"""
        self._histories: dict[str, MetricHistory] = {}
        """the metrics of every step by part of a mixture; under an empty name those of the whole steps"""
        self._evaluations: dict[str, Evaluations] = {}
        self._held: dict[str, Warned] = {}
        self._quiet: dict[str, int] = {}
        pending = deque(evaluations)
        for step, metrics in enumerate(history, 1):
            while pending and pending[0][0] < step:
                self.evaluated(*pending.popleft())
            self.look(metrics)
        for step, evaluation in pending:
            self.evaluated(step, evaluation)

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation was made after `step` steps."""
        for task, of_task in (("", evaluation), *evaluation.tasks.items()):
            self._evaluations.setdefault(task, Evaluations()).add(step, of_task)

    def look(self, metrics: Mapping[str, float]) -> tuple[Warned, ...]:
        """The warnings that hold after one more step, which had these metrics; new ones have its number as `step`."""
        step = len(self._histories.get("", ())) + 1
        for task, own in by_task(metrics).items():
            history = self._histories.setdefault(task, MetricHistory())
            history.append(own)
            for name, rule in RULES.items():
                finding = rule(history, self._evaluations.get(task, _NONE))
                self._note(step, f"{name} ({task})" if task else name, _about(task, finding))
        return tuple(self._held.values())

    def _note(self, step: int, name: str, finding: Finding | None) -> None:
        """What a rule found at a step."""
        if finding is not None:
            self._quiet[name] = 0
            if name not in self._held:
                self._held[name] = Warned(step, name, finding.what, finding.advice)
                self.raised.append(self._held[name])
        elif name in self._held:
            self._quiet[name] += 1
            if self._quiet[name] >= QUIET:
                del self._held[name]


def _about(task: str, finding: Finding | None) -> Finding | None:
    return replace(finding, what=f"{task}: {finding.what}") if task and finding is not None else finding


_NONE = Evaluations()
"""no evaluation so far"""


def entropy_falls(history: History, evaluations: Evaluations) -> Finding | None:
    """Below a fifth of the start and below 0.1 nats per token.

    Entropy falls in every run that learns, at first fast (2505.22617), and healthy instruct models work at 0.1 to 0.5
    nats. Below both bounds the responses to a problem are nearly the same, so that groups have no differences left.
    """
    start, now = _start(history, "response/entropy"), _recent_mean(history, "response/entropy")
    if start is None or now is None or now >= min(0.2 * start, 0.1):
        return None
    term = _term(history)
    return Finding(
        f"entropy fell from {start:.2f} to {now:.3f} nats per token: the policy hardly explores any more",
        f"Try a higher clip bound (gro.terms.{term}.link.high = 0.28), an entropy bonus (gro.terms.{term}.entropy = "
        "0.001), a lower learning.learning_rate, or harder problems",
    )


def entropy_rises(history: History, evaluations: Evaluations) -> Finding | None:
    """Twice the start, and a nat above it: text that still makes sense has no more than one or two nats per token."""
    start, now = _start(history, "response/entropy"), _recent_mean(history, "response/entropy")
    if start is None or now is None or now <= max(2 * start, start + 1.0):
        return None
    return Finding(
        f"entropy rose from {start:.2f} to {now:.2f} nats per token: the policy degenerates",
        "Read some responses. Try a lower learning.learning_rate, less or no entropy bonus, and a KL penalty "
        f"(gro.terms.{_term(history)}.kl.coefficient = 0.01)",
    )


def length_falls(history: History, evaluations: Evaluations) -> Finding | None:
    """Below a quarter of the start: answers without their reasoning.

    A small model that learns to stop in time ends at a third. Responses that are short from the start (24 tokens) have
    no reasoning to lose.
    """
    start, now = _start(history, "response/length_mean"), _recent_mean(history, "response/length_mean")
    if start is None or now is None or start < 24 or now >= start / 4:
        return None
    return Finding(
        f"responses shrank from {start:.0f} to {now:.0f} tokens",
        "Read some responses: is a short answer rewarded on its own? Let format rewards count only together with a "
        "right answer "
        "(`when`, or a gate), and look for a length penalty that is too strong",
    )


def length_rises(history: History, evaluations: Evaluations) -> Finding | None:
    """Twice as long as 20 steps ago and above 64 tokens, without a better reward. Longer and better is how reasoning
    models learn."""
    length, reward = "response/length_mean", "reward/mean"
    then, now = _earlier_mean(history, length), _recent_mean(history, length)
    before, after = _earlier_mean(history, reward), _recent_mean(history, reward)
    if then is None or now is None or before is None or after is None or after > before:
        return None
    if now <= max(2 * then, 64):
        return None
    return Finding(
        f"responses grew from {then:.0f} to {now:.0f} tokens, and the reward did not",
        "Read some responses: do they repeat themselves? Add the reward `repetition` with a negative weight or "
        "`length`, or aggregate per token "
        f"(gro.terms.{_term(history)}.aggregation.kind = 'token-mean')",
    )


def truncated(history: History, evaluations: Evaluations) -> Finding | None:
    """More than a third of the responses cut at the limit, and no fewer than at the start.

    A cut response has no answer, so a third of the sampling is lost; a run that starts there and learns to finish is
    healthy.
    """
    start, now = _start(history, "response/finished"), _recent_mean(history, "response/finished")
    if start is None or now is None or now >= 2 / 3 or now > start + 0.05:
        return None
    return Finding(
        f"{number(1 - now, 'share')} of the responses are cut at the length limit",
        "Raise sampling.max_tokens, ask for shorter answers in the prompt, or leave cut responses out of the update "
        f"(gro.terms.{_term(history)}.mask_truncated = true)",
    )


def kl_explodes(history: History, evaluations: Evaluations) -> Finding | None:
    """Above 1 nat per token, or ten times that of 20 steps ago.

    Healthy runs end at 0.01 to 0.5 nats per token. The KL starts at 0, so growth counts from 0.02 on only.
    """
    for term in terms(name for metrics in history[-SPAN:] for name in metrics):
        name = f"term/{term}/kl"
        then, now = _earlier_mean(history, name), _recent_mean(history, name)
        exploded = then is not None and now is not None and now > 10 * max(then, 0.02)
        if now is None or not (exploded or now > 1.0):
            continue
        grew = f" (it was {then:.2g} {BACK} steps ago)" if exploded else ""
        return Finding(
            f"the KL of {term} to the reference is {now:.2g} nats per token{grew}",
            f"Try a lower learning.learning_rate, a larger gro.terms.{term}.kl.coefficient, fewer learning.epochs or "
            "learning.updates_per_step",
        )
    return None


def no_credit(history: History, evaluations: Evaluations) -> Finding | None:
    """No group with a difference in three steps: nothing was learned in them."""
    last = history[-SPAN:]
    if len(last) < SPAN or not all(metrics.get("groups/no_credit") == 1.0 for metrics in last):
        return None
    start, now = _start(history, "reward/mean"), _recent_mean(history, "reward/mean")
    better = start is not None and now is not None and now > start
    return Finding(
        f"all groups without credit for {SPAN} steps: every response to a problem earns the same",
        "The problems may be solved: take harder ones, or stop here"
        if better
        else "Easier problems, more responses per problem (sampling.group_size) or a reward with more than two values "
        "give differences; `reasoner rewards test NAME --task TASK` shows whether the verifier can be satisfied at all",
    )


def reward_without_skill(history: History, evaluations: Evaluations) -> Finding | None:
    """The training reward rises, and the last two evaluations are below the best two by 3.5 standard errors.

    The best one of several is the luckiest: compared singly, at two standard errors, every tenth run of ten evaluations
    would warn by chance alone; as it is, one in a hundred does.
    """
    if evaluations.peak is None:
        return None
    (peak, best), (_, latest) = evaluations.peak, evaluations.pairs[-1]
    at_peak = _mean(metrics.get("reward/mean") for metrics in history[max(0, peak - SPAN) : peak + SPAN])
    now = _recent_mean(history, "reward/mean")
    if at_peak is None or now is None or now <= at_peak:
        return None
    if not _has_fallen(best, latest):
        return None
    before, after = (number(fmean(evaluation.values()), "share") for evaluation in (best, latest))
    return Finding(
        f"the reward rises and the evaluation falls: accuracy {before} around step {peak}, {after} now",
        "The policy may have found a reward that is not skill: read what scores high, tighten the verifier or its "
        "gates, and take the checkpoint of the best evaluation",
    )


def gap_grows(history: History, evaluations: Evaluations) -> Finding | None:
    """Three times that of the start, and above 1e-4 nats.

    Rounding alone is 1e-5 in float32 and some 1e-2 in bfloat16, and stays there. Weights or cached prompts in the
    sampler that are not the learner's grow with every step. Responses of older weights (`sampling.max_staleness`)
    differ by what the policy moved in between, which is no fault.
    """
    if _recent_mean(history, "response/staleness"):
        return None
    start, now = _start(history, "gap/mean"), _recent_mean(history, "gap/mean")
    if start is None or now is None or now <= max(3 * start, 1e-4):
        return None
    return Finding(
        f"the gap between sampler and learner grew from {start:.2g} to {now:.2g} nats per token",
        "The sampler may keep old weights or caches: see whether sampling.engine = 'hf' is free of it, check more "
        f"often (handover.check_every = 1), and correct for it meanwhile (gro.terms.{_term(history)}.correction)",
    )


def failures_rise(history: History, evaluations: Evaluations) -> Finding | None:
    """A reward source fails in a tenth of its calls, or in 2% and five times as often as at the start.

    Single failures are normal for judges and programs; the run itself stops at `scoring.max_failure_rate`.
    """
    rates = {}
    for source in sources(name for metrics in history[-SPAN:] for name in metrics):
        name = f"reward/{source}/failed"
        start, now = _start(history, name), _recent_mean(history, name)
        if now is not None and (now > 0.1 or (start is not None and now > max(5 * start, 0.02))):
            rates[source] = now
    if not rates:
        return None
    named = ", ".join(f"{source} {number(rate, 'share')}" for source, rate in rates.items())
    return Finding(
        f"failed reward calls: {named}",
        "The rollout files have each failure's kind and message (`reasoner report RUN` shows them). Timeouts: raise "
        "rewards.NAME.timeout_s or lower scoring.workers; a service: look at its own log",
    )


def never_applies(history: History, evaluations: Evaluations) -> Finding | None:
    """A reward source has no value for any response in three steps; from the first step on where it had none for any
    problem of the evaluation either.

    A source may apply to a part of the problems, and a step may hold none of them by chance. One that never answers has
    most likely a function that ends without `return`.
    """
    last = history[-SPAN:]
    silent = []
    for source in sources(name for metrics in last for name in metrics):
        shares = [metrics[name] for metrics in last if (name := f"reward/{source}/not_applicable") in metrics]
        measured = len(shares) == SPAN or evaluations.sampled
        answered = len(shares) < SPAN and f"reward/{source}" in evaluations.names
        if shares and measured and not answered and all(share == 1.0 for share in shares):
            silent.append(source)
    if not silent:
        return None
    return Finding(
        f"the reward source {' and '.join(silent)} does not apply to any response",
        "It contributes nothing. Does its function return a value on every path? `reasoner plugins check` shows it. If "
        "it is for another kind of problem, data.train has few of them, or none",
    )


def tools_fail(history: History, evaluations: Evaluations) -> Finding | None:
    """A fifth of the results of tools are errors, or a tenth of the responses abstain because of their environment.

    A policy that learns to call a tool makes it raise now and then, and reads why. Tools that fail more often than that
    teach it to leave them alone.
    """
    failed, abstained = _recent_mean(history, "tools/failed"), _recent_mean(history, "environment/failed")
    bad = {
        f"{number(failed or 0.0, 'share')} of the results of tools are errors": failed is not None and failed > 0.2,
        f"{number(abstained or 0.0, 'share')} of the responses lost their environment": (abstained or 0.0) > 0.1,
    }
    if not any(bad.values()):
        return None
    return Finding(
        " and ".join(text for text, holds in bad.items() if holds),
        "`reasoner report RUN` shows each turn with its error. Timeouts: raise environment.timeout_s or lower "
        "environment.workers; memory: raise environment.memory_mb; errors that the policy makes: describe the tool "
        "better",
    )


def tools_unused(history: History, evaluations: Evaluations) -> Finding | None:
    """A tenth of the calls of the start, where there was one in five responses at least: the model stopped calling the
    tool."""
    start, now = _start(history, "tools/calls"), _recent_mean(history, "tools/calls")
    if start is None or now is None or start < 0.2 or now >= start / 10:
        return None
    return Finding(
        f"tool calls fell from {start:.2f} to {now:.2f} per response: the policy stopped calling the tool",
        "Read some responses: do calls fail or cost more than they bring? Look for a penalty on calls or on length, "
        "see whether the problems need the tool, and whether malformed calls are told what is wrong with them",
    )


Rule = Callable[[History, Evaluations], Finding | None]
RULES: Mapping[str, Rule] = {
    "no credit": no_credit,
    "entropy collapse": entropy_falls,
    "entropy explosion": entropy_rises,
    "length collapse": length_falls,
    "length explosion": length_rises,
    "truncated": truncated,
    "KL": kl_explodes,
    "reward hacking": reward_without_skill,
    "sampler gap": gap_grows,
    "reward failures": failures_rise,
    "not applicable": never_applies,
    "tool failures": tools_fail,
    "tools unused": tools_unused,
}


def _term(history: History) -> str:
    """The term that advice is about: the first one of the last step."""
    return next(iter(terms(history[-1])), "NAME")


def _recent_mean(history: History, name: str) -> float | None:
    """Mean of the last steps that have the metric."""
    return _mean([metrics[name] for metrics in history[-SPAN:] if name in metrics])


def _start(history: History, name: str) -> float | None:
    """Mean of the first steps; None until the last ones are others."""
    return _mean(metrics.get(name) for metrics in history[:SPAN]) if len(history) >= 2 * SPAN else None


def _earlier_mean(history: History, name: str) -> float | None:
    """Mean of the steps that ended 20 steps ago; None: the run is younger."""
    then = history[-BACK - SPAN : -BACK]
    return _mean(metrics.get(name) for metrics in then) if len(then) == SPAN else None


def _mean(values: Iterable[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(finite) if finite else None


def _mean_of(one: ByProblem, other: ByProblem) -> ByProblem:
    """Mean of two evaluations."""
    return {problem: (value + other[problem]) / 2 for problem, value in one.items() if problem in other}


def _level(figures: ByProblem) -> float:
    return fmean(figures.values()) if figures else -math.inf


def _has_fallen(before: ByProblem, after: ByProblem) -> bool:
    """Whether the mean change over problems is below 0 by more than 3.5 of its standard errors."""
    changes = [after[problem] - value for problem, value in before.items() if problem in after]
    return len(changes) > 1 and fmean(changes) < -3.5 * stdev(changes) / math.sqrt(len(changes))
