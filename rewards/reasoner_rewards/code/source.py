"""The reward source `code`: the share of a problem's tests, or all of them, that the program in a response passes."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reasoner import Problem, Response, Sandbox, Score, permitted_sandbox, reward
from reasoner_rewards.code import asserts, beside, calls, contest, driven, plainly, stdin
from reasoner_rewards.code.bindings import begins_indented, bound_names
from reasoner_rewards.code.extraction import CodeExtract, program_in
from reasoner_rewards.code.process import Allowance, Program
from reasoner_rewards.code.verdict import ProgramVerdict, cut

TestKind = Literal["asserts", "calls", "stdin", "checker", "contest"]
Harness = Literal["outside", "inside"]
MAX_KEPT = 2**16
"""characters of a program that are kept as a part of its score; the response has all of them"""
MAX_PROGRAM = 2**23
"""characters of a program that is run; a longer one would fill the scratch folder of its sandbox"""


class CodeOptions(BaseModel):
    """Options of `code`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tests: TestKind
    """what the problem's field `tests` holds (docs/code.md)"""
    extract: CodeExtract = "fenced"
    """where the program is: in the last fenced block of its language, or all of the response"""
    labels: tuple[str, ...] = ("python", "py", "python3", "")
    """labels of the fenced blocks that count; an empty one: without a label, where no block has one of the others"""
    harness: Harness = "outside"
    """where assertions run: outside of the program's sandbox, where no verdict can be forged, or inside of it with all
    of Python, where one can (docs/code.md)"""
    score: Literal["all", "fraction"] = "all"
    """1.0 for all tests and 0.0 otherwise, or the share of tests that were passed"""
    tolerance: float = Field(default=0.0, ge=0.0)
    """how far numbers may be from an expected one that is no integer, absolute and relative; `asserts` say it
    themselves"""
    timeout_s: Annotated[float, Field(gt=0.0, le=30.0)] = 4.0
    """wall seconds per test; a test that takes longer ends the program. With tests of a contest, for problems without a
    `time_limit` of their own"""
    program_timeout_s: Annotated[float, Field(gt=0.0, le=30.0)] = 12.0
    """wall seconds for all tests of a program"""
    memory_mb: int = Field(default=512, ge=64)
    """MiB of memory that a program may use"""
    sandbox: str = "auto"
    """a sandbox's name (`reasoner doctor`) or the address of a service; `auto`: the best that works here"""

    @model_validator(mode="after")
    def _only_assertions_run_inside(self) -> Self:
        if self.harness == "inside" and self.tests != "asserts":
            raise ValueError(f"harness = 'inside' is for tests = 'asserts', got tests = {self.tests!r}")
        return self

    @property
    def allowance(self) -> Allowance:
        """What a program may use."""
        return Allowance(self.timeout_s, self.program_timeout_s, self.memory_mb)


def _preflight(options: CodeOptions) -> str:
    return f"sandbox: {permitted_sandbox(options.sandbox).name}"


def _check_problem(problem: Problem, options: CodeOptions) -> str:
    """Run the reference program, where the answer is one, as a response's, and assertions in plain Python as well.

    Raises:
        ValueError: the tests are no tests, or one of both passes and the other does not.
    """
    judge = _judge(problem, options)
    text = program_in(problem.answer, "fenced", options.labels, judge.names)[0] or problem.answer
    if not _is_program(text, judge.names):
        return "without a reference program"
    verdict = judge.verdict(text)
    passed = verdict.passed == len(verdict.tests)
    if options.tests != "asserts" or verdict.timed_out:
        return "pass" if passed else "do not pass"
    tests = asserts.read_asserts(problem)
    plain = plainly.run_plainly(_sandbox(options.sandbox), tests.program(text), tests, options.allowance)
    if plain.ok is passed or plain.end == "timeout":
        return "pass, as in plain Python" if passed else "do not pass, nor in plain Python"
    message = plain.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    ways = f"passes in plain Python and not here: {verdict.note}"
    if passed:
        ways = f"passes here and not in plain Python: {cut(message) or f'exit status {plain.code}'}"
    outside = " harness = 'inside' runs tests as plain Python does." if options.harness == "outside" else ""
    raise ValueError(f"problem {problem.id!r}: the reference program {ways}.{outside}")


def _is_program(text: str, names: frozenset[str]) -> bool:
    """Whether it is Python that defines something that is tested, or goes on where a prompt ends."""
    if begins_indented(text):
        return True
    try:
        tree = ast.parse(text)
        return bool(tree.body) and (not names or not bound_names(tree).isdisjoint(names))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


# Above twice the longest `program_timeout_s` (the program's, its checker's): a program that is too slow gets a verdict.
@reward(
    "code",
    timeout_s=90.0,
    preflight=_preflight,
    check_problem=_check_problem,
    needs_answer=False,
    workers=len(os.sched_getaffinity(0)),
)
def code(problem: Problem, response: Response, *, options: CodeOptions) -> Score:
    """1.0 if the program in the response passes all tests of the problem, else 0.0.

    The program runs in a sandbox that only ever answers what it returns, or prints, for an input; what it should be is
    compared outside (docs/code.md). Whatever the program does (a syntax error, a crash, too much time or memory) is a
    verdict, and so is whatever length it has. The call fails only when the sandbox does, or the tests are no tests.

    Parts: `program`, of a long one the beginning; `compiled`; `ran`: it answered every test, without an exception, a
    crash or a timeout; `tests_passed`, `tests_total`; `timed_out`. The note says how the first test failed.

    Raises:
        ValueError: the problem has no tests of this kind (the problem is broken, not the response).
        SandboxError: the sandbox did not do its work.
    """
    judge = _judge(problem, options)
    text, reason = program_in(response.text, options.extract, options.labels, judge.names)
    if text is None:
        return Score(0.0, {"program": None, "compiled": False, "ran": False, "timed_out": False}, reason)
    if len(text) > MAX_PROGRAM:
        parts = {"program": _shorten_program(text), "compiled": False, "ran": False, "timed_out": False}
        return Score(0.0, parts, f"not run: the program has {len(text)} characters, more than {MAX_PROGRAM}")
    verdict = judge.verdict(text)
    total = len(verdict.tests)
    parts = {
        "program": _shorten_program(text),
        "compiled": verdict.compiled,
        "ran": verdict.ran,
        "tests_passed": verdict.passed,
        "tests_total": total,
        "timed_out": verdict.timed_out,
    }
    value = verdict.passed / total if options.score == "fraction" else float(verdict.passed == total)
    note = f"{verdict.note} ({reason})" if verdict.note and reason else verdict.note
    return Score(value, parts, note)


def _shorten_program(program: str) -> str:
    """What a score can hold of it: there is a bound on the parts of a score, and none on what a model writes."""
    if len(program) <= MAX_KEPT:
        return program
    return f"{program[:MAX_KEPT]}\n# cut here: the program has {len(program)} characters"


@dataclass(frozen=True, slots=True)
class _Judge:
    """The tests of a problem, read."""

    verdict: Callable[[str], ProgramVerdict]
    """of a program"""
    names: frozenset[str]
    """what they ask of a program; empty: it is run as a script"""


def _judge(problem: Problem, options: CodeOptions) -> _Judge:
    """What makes a verdict of a program. The tests are read first: a broken problem fails whatever the response is."""
    allowance, sandbox = options.allowance, _sandbox(options.sandbox)
    if options.tests == "asserts":
        tests = asserts.read_asserts(problem)
        return _Judge(_asserts_judge(tests, options), frozenset(tests.names))
    if options.tests == "calls":
        asked = calls.read_calls(problem, options.tolerance)
        names = frozenset(question.call.function.partition(".")[0] for question in asked)
        return _Judge(lambda text: calls.judge(sandbox, Program((text,)), asked, allowance), names)
    if options.tests == "contest":
        return _contest_judge(problem, contest.read_contest(problem, options.tolerance), options)
    checked = options.tests == "checker"
    cases = stdin.read_cases(problem, outputs=not checked)
    passes = stdin.checked_by(sandbox, problem, allowance) if checked else stdin.same_output(options.tolerance)
    return _Judge(lambda text: stdin.judge(sandbox, Program((text,)), cases, allowance, passes), frozenset())


def _contest_judge(problem: Problem, tests: contest.ContestTests, options: CodeOptions) -> _Judge:
    allowance, sandbox = tests.allowed(options.allowance), _sandbox(options.sandbox)
    if tests.function:
        return _Judge(lambda text: calls.judge(sandbox, tests.program(text), tests.asked(text), allowance), tests.names)
    passes = stdin.same_output(options.tolerance)
    if problem.fields.get("checker"):
        passes = stdin.checked_by(sandbox, problem, allowance)
    return _Judge(lambda text: stdin.judge(sandbox, tests.program(text), tests.cases, allowance, passes), frozenset())


def _asserts_judge(tests: asserts.AssertTests, options: CodeOptions) -> Callable[[str], ProgramVerdict]:
    allowance, sandbox = options.allowance, _sandbox(options.sandbox)
    if options.harness == "inside":
        return lambda text: beside.judge(sandbox, tests.program(text), tests, allowance)
    if (questions := tests.questions) is not None:
        return lambda text: calls.judge(sandbox, tests.program(text), questions, allowance)
    return lambda text: driven.judge(sandbox, tests.program(text), tests, allowance)


@cache
def _sandbox(choice: str) -> Sandbox:
    """Found once per worker: it is tried before it is used."""
    return permitted_sandbox(choice)
