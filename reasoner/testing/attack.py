"""A reward source attacked: the shortcuts of `attack_corpus.py`, and what the source paid for each of them.

First the reference answers are scored in every form, which shows in which of them a source takes an answer and what it
pays for a right one. Then the attacks on these problems are scored, in those forms. An attack is paid in full when it
gets as much as the right answer to its problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.config import RewardConfig
from reasoner.plugins.reward_api import Aspect, RewardSource
from reasoner.records import Component, Problem
from reasoner.scoring.base import Scorer
from reasoner.scoring.service import ScoringService
from reasoner.testing.attack_corpus import EXAMPLES, FORMS, Attack, fixed_attacks, in_form, is_equal, problem_attacks
from reasoner.testing.bench import StartCaseProgress
from reasoner.testing.cases import make_response, score_cases
from reasoner.testing.contract import WORKER

FIXED_ON = 1
"""problems of each source on which the attacks are tried that know nothing of a problem"""


@dataclass(frozen=True, slots=True)
class Payment:
    """What a source paid for one attack."""

    problem: Problem
    attack: Attack
    component: Component
    full: float
    """what the source pays for the right answer to this problem"""

    @property
    def in_full(self) -> bool:
        """Whether it is as much as the right answer gets."""
        return self.component.value is not None and self.component.value >= self.full


@dataclass(frozen=True, slots=True)
class AttackReport:
    """What a source paid for all attacks."""

    source: str
    aspect: Aspect
    problems: int
    """how many problems were attacked: the source takes the reference answer of each of them"""
    unread: Sequence[str]
    """why the others were not: what the source says of their reference answers"""
    payments: Sequence[Payment]

    @property
    def wrong(self) -> list[Payment]:
        """What was paid in full and must not be."""
        return [payment for payment in self.payments if payment.in_full and self.aspect not in payment.attack.spares]

    @property
    def by_attack(self) -> Mapping[str, list[Payment]]:
        """The payments by the name of the attack, in the order in which they were tried."""
        names: dict[str, list[Payment]] = {}
        for payment in self.payments:
            names.setdefault(payment.attack.name, []).append(payment)
        return names


@dataclass(slots=True)
class _Target:
    """A problem as one source judges it."""

    full: float = 1.0
    answers: dict[str, None] = field(default_factory=dict)
    forms: dict[str, None] = field(default_factory=dict)
    fault: str = ""
    """why it cannot be attacked"""


def attack_source(
    source: RewardSource,
    problems: Sequence[Problem] = EXAMPLES,
    *,
    options: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
) -> AttackReport:
    """Attack a source in the workers that a run would use, as `reasoner rewards attack` does.

        report = attack_source(my_source, [make_problem("2 + 3?", "5")], plugins=["my_source.py"])
        assert report.problems
        assert not report.wrong

    Args:
        source: registered by an installed distribution or by one of `plugins`.
        problems: what is asked, with reference answers that the source takes.
        options: its options; None: the defaults.
        plugins: files that register it.
    """
    chosen = dict(options or {})
    reward = RewardConfig(source=source.name, options=chosen)
    with ScoringService([reward], WORKER, plugins) as service:
        (report,) = attack(service, {source.name: source.rewarded(chosen)}, problems, lambda what, total: _no_progress)
    return report


def _no_progress(done: int) -> None:
    """No progress is shown."""


def attack(
    scorer: Scorer,
    aspects: Mapping[str, Aspect],
    problems: Sequence[Problem],
    counting: StartCaseProgress,
    least: float = 1.0,
) -> list[AttackReport]:
    """Attack the sources of a scorer, each on the problems whose reference answer it takes.

    Args:
        aspects: what each source rewards, by its name, in the order of the scorer's sources.
        least: the value from which on a response is correct.
    """
    targets = _targets(scorer, list(aspects.values()), problems, counting)
    for target in (target for row in targets for target in row):
        target.full = min(target.full, least)
    cases = _cases(problems, targets)
    calls = [(problems[index], make_response(tried.text)) for index, tried in cases]
    scored = score_cases(scorer, calls, counting("attacks", len(calls)))
    reports = []
    for source, (name, aspect) in enumerate(aspects.items()):
        payments = [
            Payment(problems[index], tried, parts[source], targets[index][source].full)
            for (index, tried), parts in zip(cases, scored, strict=True)
            if not targets[index][source].fault
        ]
        faults = [row[source].fault for row in targets if row[source].fault]
        reports.append(AttackReport(name, aspect, len(problems) - len(faults), faults, payments))
    return reports


def _targets(
    scorer: Scorer, aspects: Sequence[Aspect], problems: Sequence[Problem], counting: StartCaseProgress
) -> list[list[_Target]]:
    """For each problem what each source makes of its reference answer."""
    empty = score_cases(scorer, [(problem, make_response("")) for problem in problems])
    asked = [
        (index, answer, form)
        for index, problem in enumerate(problems)
        for answer in _spellings(problem, empty[index])
        for form in FORMS
    ]
    texts = [(problems[index], make_response(in_form(form, answer))) for index, answer, form in asked]
    scored = score_cases(scorer, texts, counting("reference answers", len(texts)))
    return [
        [
            _target(
                aspect,
                empty[index][source],
                [
                    (answer, form, parts[source])
                    for (i, answer, form), parts in zip(asked, scored, strict=True)
                    if i == index
                ],
            )
            for source, aspect in enumerate(aspects)
        ]
        for index in range(len(problems))
    ]


def _spellings(problem: Problem, parts: Sequence[Component]) -> list[str]:
    """The reference as the data has it, and as the sources say that they compare with it."""
    references = [str(part.parts["reference"]) for part in parts if part.parts.get("reference")]
    return [text for text in dict.fromkeys([problem.answer, *references]) if text.strip()]


def _target(aspect: Aspect, empty: Component, tried: Sequence[tuple[str, str, Component]]) -> _Target:
    failure = next((part.failure for _, _, part in tried if part.failure is not None), empty.failure)
    if failure is not None:
        return _Target(fault=failure.message)
    values = [part.value for _, _, part in tried if part.value is not None]
    nothing = empty.value if empty.value is not None else 0.0
    full = max(values, default=nothing)
    if full <= nothing and full < 1.0:
        if aspect == "answer":
            return _Target(fault="the reference answer is paid no more than an empty response")
        return _Target()
    paid = [(answer, form) for answer, form, part in tried if part.value is not None and part.value >= full]
    return _Target(full, dict.fromkeys(answer for answer, _ in paid), dict.fromkeys(form for _, form in paid))


def _cases(problems: Sequence[Problem], targets: Sequence[Sequence[_Target]]) -> list[tuple[int, Attack]]:
    """The attacks by the index of their problem: in all forms that a source takes."""
    cases: list[tuple[int, Attack]] = []
    tried_on = [0] * len(targets[0])
    for index, row in enumerate(targets):
        open_to = [source for source, target in enumerate(row) if not target.fault]
        if any(tried_on[source] < FIXED_ON for source in open_to):
            cases += [(index, tried) for tried in fixed_attacks()]
            for source in open_to:
                tried_on[source] += 1
        answers = list(dict.fromkeys(answer for target in row for answer in target.answers))
        forms = list(dict.fromkeys(form for target in row for form in target.forms))
        cases += [
            (index, tried) for tried in problem_attacks(problems[index], answers, forms, _other_answers(targets, index))
        ]
    return cases


def _other_answers(targets: Sequence[Sequence[_Target]], index: int) -> list[str]:
    """The answers to other problems, as a source spells them, without those that this problem has too."""
    own = [answer for target in targets[index] for answer in target.answers]
    answers: dict[str, None] = {}
    for row in targets:
        spelled = [answer for target in row for answer in target.answers]
        if spelled and not any(is_equal(one, other) for one in spelled for other in own):
            answers[spelled[-1]] = None
    return list(answers)
