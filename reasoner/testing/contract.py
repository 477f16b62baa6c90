"""For the tests of reward sources: problems and responses, and the contract that every source must keep.

    from reasoner.testing import Case, check_source, make_problem, make_response

    SUM = make_problem("2 + 3?", "5")
    CASES = [Case(SUM, make_response("It is 5."), 1.0), Case(SUM, make_response("It is 6."), 0.0)]

    def test_it_keeps_the_contract():
        checklist = check_source(my_source, CASES)
        assert checklist.passed, str(checklist)

`reasoner plugins check` runs the same contract from the command line. The source must be registered: by an installed
distribution, or by a file that `plugins` names.

The pytest fixture `score_in_worker` calls a source as a run does, in a worker that is killed at its deadline. A test
file asks for it with `pytest_plugins = ["reasoner.testing.pytest_plugin"]`:

    def test_it_ends_in_time(score_in_worker):
        component = score_in_worker(my_source, SUM, make_response("5" * 10**6))
        assert component.failure is None
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, ScoringError, UserError
from reasoner.plugins.reward_api import Granularity, RewardSource
from reasoner.records import Component, Group, Problem, Response
from reasoner.scoring.base import verdict_text
from reasoner.scoring.service import ScoringService
from reasoner.testing.cases import Case, make_problem, make_response, score_cases
from reasoner.testing.checklist import MEGABYTE, UNICODE, Check, Checklist

__all__ = ["Case", "Check", "Checklist", "check_source", "make_problem", "make_response"]

TOLERANCE = 1e-9
"""how far a value may be from the expected one"""
SIZES = {1: (1,), 2: (1, 1), 5: (2, 3)}
"""responses of a group, or of a batch with the sizes of the groups in it"""
PROBLEM = make_problem("What is 6 times 7?", "42")
"""what is asked where there are no cases"""
BARE = "a problem without a reference"
"""the one thing that a source may refuse: the problem is broken then, not the response"""
WORKER = ScoringConfig(workers=1, max_failure_rate=1.0, cache=0)
"""one worker that makes every call, and no number of failures that stops it"""

Sample = tuple[Problem, Response]


def check_source(
    source: RewardSource,
    cases: Sequence[Case] = (),
    *,
    options: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = (),
) -> Checklist:
    """Run the contract on a source, in the workers that a run would use.

    It accepts its options and finds what it needs; it is found in a worker; it copes with an empty text, a megabyte,
    unicode and a problem without a reference within its deadline; it returns None, a finite number or a Score with JSON
    parts, and not None for everything; it gives every case its expected value; it gives the same value twice and in
    another process; one that sees groups or batches takes them in every size; it leaves its worker as it was: no
    process, no thread, no other working directory.

    Args:
        source: registered by an installed distribution or by one of `plugins`.
        cases: what it must return. The first one's problem is also that of the odd texts: a source that reads fields of
            the problem needs a case that has them.
        options: its options; None: the defaults.
        plugins: files that register it.
    """
    chosen = dict(options or {})
    checks = [_check_options(source, chosen)]
    if checks[0].passed and source.preflight is not None:
        checks.append(_check_preflight(source, chosen))
    if not checks[-1].passed:
        return Checklist(source.name, tuple(checks))
    probes = _probes(cases)
    calls = [*probes.values(), *((case.problem, case.response) for case in cases)]
    calls += [] if cases else [(PROBLEM, make_response(text)) for text in ("42", "The answer is \\boxed{42}.")]
    sized = {} if source.granularity == "response" else _groups_by_size(source.granularity, cases)
    try:
        first, of_size, left = _score(source, chosen, plugins, [*calls, *calls], sized)
        second, _, _ = _score(source, chosen, plugins, calls)
    except (ConfigError, ScoringError) as error:
        return Checklist(source.name, (*checks, Check("is found in a worker", False, str(error))))
    first_pass, second_pass = first[: len(calls)], first[len(calls) :]
    checks.append(Check("is found in a worker", True))
    checks += [_check_probe(name, part, own=bool(cases)) for name, part in zip(probes, first_pass, strict=False)]
    checks.append(_check_returned(first_pass))
    if any(part.failure is None for part in first_pass):  # of one that always fails the checks above say enough
        checks.append(_check_answers(first_pass, own=bool(cases)))
    if cases:
        checks.append(_check_cases(cases, first_pass[len(probes) :]))
    if sized:
        checks.append(_check_sizes(source.granularity, of_size))
    checks.append(_check_same("gives the same value twice", calls, first_pass, second_pass))
    checks.append(_check_same("gives the same value in another process", calls, first_pass, second))
    checks.append(Check("leaves its worker as it was", not left, "; ".join(left)))
    return Checklist(source.name, tuple(checks))


def _probes(cases: Sequence[Case]) -> dict[str, tuple[Problem, Response]]:
    problem = cases[0].problem if cases else PROBLEM
    bare = Problem(problem.id, problem.messages, "", {**problem.fields, "answer": ""})
    return {
        "an empty text": (problem, make_response("")),
        "a megabyte of text": (problem, make_response("0 = 1 {" * (MEGABYTE // 7), tokens=1)),
        "unicode": (problem, make_response(UNICODE)),
        BARE: (bare, make_response("42")),
    }


def _groups_by_size(granularity: Granularity, cases: Sequence[Case]) -> dict[int, list[Group]]:
    """For each size the groups of one call: a group with so many responses, or groups that make such a batch. As in a
    run, some responses are equal."""
    problem = cases[0].problem if cases else PROBLEM
    own = [case.response for case in cases if _question_of(case.problem) == _question_of(problem)]
    responses = [*own, *(make_response(text) for text in ("42", "It is 41.", "", UNICODE))][:4]
    responses.append(responses[0])
    return {
        size: [
            Group(replace(problem, id=f"{index}:{problem.id}"), (0,), tuple(responses[:count]))
            for index, count in enumerate((size,) if granularity == "group" else parts)
        ]
        for size, parts in SIZES.items()
    }


def _question_of(problem: Problem) -> tuple[object, str]:
    return problem.messages, problem.answer


def _score(
    source: RewardSource,
    options: Mapping[str, Any],
    plugins: Sequence[str],
    calls: Sequence[Sample],
    sized: Mapping[int, Sequence[Group]] = MappingProxyType({}),
) -> tuple[list[Component], dict[int, list[Component]], Sequence[str]]:
    """The verdicts, those of each size, and what the calls left behind or did to the process that starts their
    workers."""
    printed: list[str] = []
    reward = RewardConfig(source=source.name, options=dict(options))
    with ScoringService([reward], WORKER, plugins, printed.append) as service:
        # One by one: in a batch, one response that kills the call would fail those beside it.
        parts = [score_cases(service, [call])[0][0] for call in calls]
        of_size = {
            size: [row[0] for scored in service.score(groups) for row in scored.components]
            for size, groups in sized.items()
        }
        abandoned = service.left_behind().get(source.name)
        return parts, of_size, abandoned or printed


def _check_options(source: RewardSource, options: Mapping[str, Any]) -> Check:
    name = "accepts its options"
    try:
        # The defaults are given too: pydantic takes them as they are, and they must be what the annotations say.
        complete = source.check_options({**_defaults(source), **options})
    except ConfigError as error:
        return Check(name, False, str(error))
    return Check(name, True, ", ".join(f"{key} = {value!r}" for key, value in complete.items()) or "it has none")


def _check_preflight(source: RewardSource, options: Mapping[str, Any]) -> Check:
    name = "finds what it needs here"
    try:
        return Check(name, True, source.ready(options))
    except UserError as error:
        return Check(name, False, str(error))


def _defaults(source: RewardSource) -> dict[str, Any]:
    fields = source.options.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}


def _check_probe(name: str, part: Component, own: bool) -> Check:
    """`own`: the problem is that of a case, so the source must be able to read it."""
    title = f"copes with {name}"
    if part.failure is None:
        return Check(title, True, f"{verdict_text(part)}, {1000 * part.seconds:.1f} ms")
    raised = part.failure.kind == "error"
    if raised and name == BARE:
        return Check(title, True, f"refuses it: {part.failure.message}")
    hint = "" if own or not raised else " (Does it need a problem of another kind? Then give it cases.)"
    return Check(title, False, verdict_text(part) + hint)


def _check_returned(parts: Sequence[Component]) -> Check:
    wrong = [part.failure.message for part in parts if part.failure is not None and part.failure.kind == "invalid"]
    name = "returns None, a finite number or a Score"
    if wrong or any(part.failure is None for part in parts):
        return Check(name, not wrong, wrong[0] if wrong else "")
    return Check(name, True, "not checked: no call returned", reached=False)


def _check_answers(parts: Sequence[Component], own: bool) -> Check:
    """`own`: there were cases, so that some problem is of the source's kind."""
    answered = sum(part.value is not None for part in parts)
    name = "gives some response a value"
    if answered:
        return Check(name, True, f"{answered} of {len(parts)} calls")
    kind = "" if own else " Is it for problems of another kind? Then give it cases."
    why = "it says of every response that it does not apply (None). Does the function end without `return`?"
    return Check(name, False, why + kind)


def _check_sizes(granularity: Granularity, of_size: Mapping[int, Sequence[Component]]) -> Check:
    several = "groups" if granularity == "group" else "batches"
    name = f"takes {several} of {', '.join(map(str, of_size))} responses"
    for size, parts in of_size.items():
        failed = next((part for part in parts if part.failure is not None), None)
        if failed is not None:
            return Check(name, False, f"of {size}: {verdict_text(failed)}")
    return Check(name, True)


def _check_cases(cases: Sequence[Case], parts: Sequence[Component]) -> Check:
    wrong = [
        f"{case.response.text[:40]!r} must get {case.expected}, got {verdict_text(part)}"
        for case, part in zip(cases, parts, strict=True)
        if not agrees(case.expected, part)
    ]
    detail = f"{len(wrong)} of {len(cases)} differ: {wrong[0]}" if wrong else f"{len(cases)} cases"
    return Check("gives the expected values", not wrong, detail)


def agrees(expected: float | None, part: Component) -> bool:
    """Whether a verdict is the expected one."""
    if part.failure is not None:
        return False
    if part.value is None or expected is None:
        return part.value is None and expected is None
    return abs(part.value - expected) <= TOLERANCE


def _check_same(
    title: str, calls: Sequence[tuple[Problem, Response]], before: Sequence[Component], after: Sequence[Component]
) -> Check:
    for (_, response), one, other in zip(calls, before, after, strict=True):
        if (one.value, one.failure is None) != (other.value, other.failure is None):
            return Check(title, False, f"{response.text[:40]!r} got {verdict_text(one)}, then {verdict_text(other)}")
    if not any(one.failure is None for one in before):
        return Check(title, True, "not checked: no call returned", reached=False)
    return Check(title, True)
