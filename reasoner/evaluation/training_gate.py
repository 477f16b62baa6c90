"""The gate before training: how often the policy is right on a few training problems, and whether that can teach it.

A method that compares the responses to a problem learns nothing from a problem that is always or never solved. So a few
training problems are sampled first, with the group size and the temperature of the run:

    pass@1    share of correct responses
    pass@G    share of problems with at least one correct response among the G of a group
    signal    share of groups in which at least two rewards differ

The problems are few, so the intervals are wide: the gate tells "never" and "always" from "sometimes", and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reasoner.evaluation.metrics import Criterion, Estimate, estimate, summarise
from reasoner.records import ScoredGroup

PROBLEMS = 8
"""training problems that are sampled: seconds, not minutes, with a small model"""
TOO_HARD, TOO_EASY = 0.02, 0.95
"""pass@G below which a run learns nothing, and pass@1 above which it learns little. Not pass@1 for both: a model that
is right in 3% of its responses has a right one in every fifth group of 8, and learns from that."""


@dataclass(frozen=True, slots=True)
class TrainingGate:
    """What was found: `gate.json` of a run folder."""

    problems: int
    """training problems that were sampled"""
    samples: int
    """responses to each of them"""
    correct: str
    """what makes a response correct: `math`, `judge >= 0.8`"""
    pass_1: Estimate | None
    """share of correct responses; None: no response was judged"""
    pass_group: Estimate | None
    """share of problems with a correct response in their group; None: not judged, or one response to a problem"""
    signal: Estimate | None
    """share of groups whose rewards differ; None: one response to a problem, which has nothing to be compared with"""
    advice: str
    """what is wrong and what to change; empty: nothing is wrong"""
    tasks: Mapping[str, TrainingGate] = field(default_factory=dict)
    """of each part of a mixture, whose problems together are what the other fields are over"""

    @property
    def sentence(self) -> str:
        """The figures, for a newcomer."""
        if self.tasks:
            return "\n".join(f"{name}: {gate.sentence}" for name, gate in self.tasks.items())
        problems, responses = _count(self.problems, "training problem"), _count(self.samples, "response")
        where = f"Before training, on {problems} with {responses} each:"
        parts = []
        if self.pass_1 is None:
            parts.append("how often the model is right is not known (no response was judged)")
        else:
            parts.append(f"{_share(self.pass_1)} of the responses are right (pass@1, {self.correct})")
        if self.pass_group is not None:
            parts.append(f"{_share(self.pass_group)} of the problems are solved at least once (pass@{self.samples})")
        if self.signal is not None:
            parts.append(f"in {_share(self.signal)} of the groups the rewards differ, so that they carry a signal")
        return f"{where} {'; '.join(parts)}."


def judge_gate(groups: Sequence[ScoredGroup], criterion: Criterion, *, demonstrations: bool) -> TrainingGate:
    """Sum up groups of training problems, all of one size.

    Args:
        criterion: what makes a response correct.
        demonstrations: the run learns from demonstrations too, so that the advice need not name them.
    """
    samples = len(groups[0].group.responses)
    figures = summarise(groups, samples, criterion)
    differ = {scored.group.problem.id: float(scored.informative) for scored in groups}
    pass_1 = figures.accuracy
    pass_group = figures.find(f"pass@{samples}") if samples > 1 else None
    signal = estimate("signal", "share", differ, 1) if samples > 1 else None
    return TrainingGate(
        problems=len(groups),
        samples=samples,
        correct=str(criterion),
        pass_1=pass_1,
        pass_group=pass_group,
        signal=signal,
        advice=_advice(pass_1, pass_group or pass_1, signal, demonstrations),
    )


def combine_gates(gates: Mapping[str, TrainingGate]) -> TrainingGate:
    """The gate of a mixture from those of its parts; of one part, its own."""
    if len(gates) == 1:
        return next(iter(gates.values()))

    def merged(figures: Sequence[Estimate | None], samples: int) -> Estimate | None:
        known = [figure for figure in figures if figure is not None]
        if not known:
            return None
        values = {problem: value for figure in known for problem, value in figure.by_problem.items()}
        return estimate(known[0].name, "share", values, samples)

    parts = list(gates.values())
    samples = parts[0].samples
    return TrainingGate(
        problems=sum(gate.problems for gate in parts),
        samples=samples,
        correct=", ".join(f"{gate.correct} of {name}" for name, gate in gates.items()),
        pass_1=merged([gate.pass_1 for gate in parts], samples),
        pass_group=merged([gate.pass_group for gate in parts], samples),
        signal=merged([gate.signal for gate in parts], 1),
        advice="\n".join(f"{name}: {gate.advice}" for name, gate in gates.items() if gate.advice),
        tasks=gates,
    )


def _advice(pass_1: Estimate | None, ever: Estimate | None, signal: Estimate | None, demonstrations: bool) -> str:
    silent = signal is not None and signal.value < TOO_HARD
    learns = (
        "almost nothing can be learnt" if silent else "a run learns what the other rewards ask for, not to be right"
    )
    if ever is not None and ever.value < TOO_HARD:
        first = "" if demonstrations else "demonstrations first (docs/laptop-evening.md), "
        return (
            f"The model is hardly ever right on these problems: {learns}. Take easier problems (a lower level in "
            f"data.train.options, or another data source), {first}a larger sampling.group_size, or a reward that gives "
            "part of the value for part of the way."
        )
    if pass_1 is not None and pass_1.value > TOO_EASY:
        return (
            "The model is almost always right on these problems: little is left to learn. Take harder problems (a "
            "higher level in data.train.options, or another data source), or let curriculum.kind = 'pass-rate' choose "
            "those that are not solved every time."
        )
    if silent:
        return (
            "In no group do the rewards differ: nothing can be learnt from responses that all earn the same. Take a "
            "larger sampling.group_size, a higher sampling.temperature, or a reward that tells such responses apart."
        )
    return ""


def _share(figure: Estimate) -> str:
    """`9% [3 to 17]`."""
    bounds = (
        "" if figure.low is None or figure.high is None else f" [{100 * figure.low:.0f} to {100 * figure.high:.0f}]"
    )
    return f"{100 * figure.value:.0f}%{bounds}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
