"""A verifier measured on responses whose verdict is known: labelled cases, and the reference answers themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reasoner.records import Component, FailureKind, Problem, Response
from reasoner.scoring.base import CaseProgress, Scorer, verdict_text
from reasoner.testing.cases import Case, make_response, score_cases
from reasoner.testing.contract import agrees

CaseOutcome = Literal["agrees", "false positive", "false negative", "failed", "not applicable"]
Form = Literal["as given", "boxed", "fenced"]

StartCaseProgress = Callable[[str, int], CaseProgress]
"""`(what, how many) -> progress` of one pass"""


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """What a source made of one case."""

    case: Case
    component: Component

    @property
    def kind(self) -> CaseOutcome:
        """False positive: a higher value than expected; false negative: a lower one."""
        if agrees(self.case.expected, self.component):
            return "agrees"
        if self.component.failure is not None:
            return "failed"
        if self.component.value is None or self.case.expected is None:
            return "not applicable"
        return "false positive" if self.component.value > self.case.expected else "false negative"


@dataclass(frozen=True, slots=True)
class Bench:
    """A source over labelled cases."""

    verdicts: tuple[CaseVerdict, ...]

    def of_kind(self, kind: CaseOutcome) -> list[CaseVerdict]:
        """The verdicts of one kind, in the order of the cases."""
        return [verdict for verdict in self.verdicts if verdict.kind == kind]

    @property
    def accuracy(self) -> float:
        """Share of the cases that got the expected value; a failed call did not."""
        return len(self.of_kind("agrees")) / len(self.verdicts)

    @property
    def seconds(self) -> float:
        """Spent in the source, over all calls."""
        return sum(verdict.component.seconds for verdict in self.verdicts)

    @property
    def failures(self) -> Mapping[FailureKind, int]:
        """Failed calls by kind."""
        return Counter(v.component.failure.kind for v in self.verdicts if v.component.failure is not None)


def bench(scorer: Scorer, cases: Sequence[Case], progress: CaseProgress) -> Bench:
    """Score all cases. The scorer has one reward source."""
    parts = score_cases(scorer, [(case.problem, case.response) for case in cases], progress)
    return Bench(tuple(CaseVerdict(case, part[0]) for case, part in zip(cases, parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A reference answer that its own verifier does not take."""

    problem_id: str
    form: Form
    text: str
    verdict: str
    """its value or failure"""
    note: str


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The reference answers of a data set, scored as responses."""

    scored: Mapping[Form, int]
    """responses by form"""
    bare: int
    """answers without a mark, in which the verifier finds none: they were scored in one only"""
    inapplicable: int
    """answers of problems to which the source says that it does not apply"""
    rejected: tuple[Rejected, ...]


def self_test(scorer: Scorer, problems: Sequence[Problem], counting: StartCaseProgress, least: float = 1.0) -> SelfTest:
    r"""Score every reference answer as the data source gives it, and in the mark that its source looks for.

    A source that looks for a final answer by some method says so: `method` is in its parts, and `reference` is the
    final answer that it compares with; the mark is `\boxed{}`. One that looks for a program has `program` in its parts;
    the mark is a fenced block, for an answer without one. The others are tested with the answers as given. An answer in
    which such a source finds nothing because it has no mark is scored in the mark only.

    Args:
        least: the value that a reference answer must get.
    """
    answers = [make_response(problem.answer) for problem in problems]
    first = _components(scorer, problems, answers, counting("answers as given", len(problems)))
    marked = [
        (problem, *mark)
        for problem, part in zip(problems, first, strict=True)
        if (mark := _reference_in_form(problem, part))
    ]
    bare = [_is_bare(problem, part) for problem, part in zip(problems, first, strict=True)]
    inapplicable = [part.value is None and part.failure is None for part in first]
    rejected = [
        _rejected(problem, "as given", problem.answer, part)
        for problem, part, *skip in zip(problems, first, bare, inapplicable, strict=True)
        if not any(skip) and not _is_taken(part, least)
    ]
    rescored = _components(
        scorer,
        [problem for problem, _, _ in marked],
        [make_response(text) for _, _, text in marked],
        counting("answers in their mark", len(marked)),
    )
    rejected += [
        _rejected(problem, form, text, part)
        for (problem, form, text), part in zip(marked, rescored, strict=True)
        if not _is_taken(part, least)
    ]
    given_alone = len(problems) - sum(bare) - sum(inapplicable)
    scored = {"as given": given_alone, **Counter(form for _, form, _ in marked)}
    return SelfTest(scored, sum(bare), sum(inapplicable), tuple(rejected))


def _is_taken(part: Component, least: float) -> bool:
    return part.value is not None and part.value >= least


def _reference_in_form(problem: Problem, part: Component) -> tuple[Form, str] | None:
    if "method" in part.parts and part.parts.get("reference"):
        return "boxed", f"\\boxed{{{part.parts['reference']}}}"
    return ("fenced", f"```python\n{problem.answer}\n```") if part.parts.get("program", "") is None else None


def _is_bare(problem: Problem, part: Component) -> bool:
    if "program" in part.parts:
        return part.parts["program"] is None
    of_method = "method" in part.parts and part.parts.get("extracted") is None
    return of_method and part.parts.get("reference") == problem.answer.strip()


def _components(
    scorer: Scorer, problems: Sequence[Problem], responses: Sequence[Response], progress: CaseProgress
) -> list[Component]:
    return [parts[0] for parts in score_cases(scorer, list(zip(problems, responses, strict=True)), progress)]


def _rejected(problem: Problem, form: Form, text: str, part: Component) -> Rejected:
    return Rejected(problem.id, form, text, verdict_text(part), part.note)
