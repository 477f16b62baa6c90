"""Calls of the program's functions, compared here with what they must return."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasoner import Problem, Sandbox
from reasoner_rewards.code.fields import list_of_tests, without_nulls
from reasoner_rewards.code.inside import codec
from reasoner_rewards.code.process import Allowance, FunctionCall, NoAnswer, Program, ask, exception_text, fields_of
from reasoner_rewards.code.verdict import ProgramVerdict, TestResult, cut, shown

MAX_MEMBERS = 10_000
"""members of a set or dict in an answer, where the test expects none that is larger"""
KEYS = {"function", "args", "kwargs", "expected"}
"""of a test of kind `calls`"""


@dataclass(frozen=True, slots=True)
class Question:
    """A call, and which of its results pass."""

    call: FunctionCall
    text: str
    """the call as a note shows it"""
    holds: Callable[[Any], bool]
    """whether a plain value, or an `Opaque`, passes"""
    expected: str
    """what was expected, for the note"""
    members: int = 0
    """of the largest set or dict that is expected: an answer with a larger one is wrong"""


def judge(sandbox: Sandbox, program: Program, questions: Sequence[Question], allowance: Allowance) -> ProgramVerdict:
    """Make all calls in one process of the program; compare what comes out.

    Raises:
        SandboxError: the sandbox failed.
    """
    requests = [question.call.request(allowance.timeout_s) for question in questions]
    start = time.monotonic()
    answers = ask(sandbox, program, "calls", requests, allowance)
    if isinstance(answers, ProgramVerdict):
        return answers
    end = allowance.reading_ends(start)
    return ProgramVerdict(tuple(_test_result(*pair, end) for pair in zip(questions, answers, strict=True)))


def _test_result(question: Question, answer: bytes | NoAnswer, end: float) -> TestResult:
    if isinstance(answer, NoAnswer):
        return TestResult(False, f"{question.text} {answer.why}", ended=False, timed_out=answer.timed_out)
    if time.monotonic() > end:
        return TestResult(False, f"{question.text}: reading the answers took too long", ended=False, timed_out=True)
    fields = fields_of(answer) or {}
    if "error" in fields:
        return TestResult(False, f"{question.text} raised {exception_text(fields)}", ended=False)
    try:
        bounds = codec.Bounds(end, max(question.members, MAX_MEMBERS))
        value = codec.decode(fields.get("value", []), _opaque, bounds)
    except (codec.CodecError, RecursionError) as error:
        return TestResult(False, f"{question.text} gave no answer that can be read: {cut(str(error))}", ended=False)
    returned = f"{question.text} returned {shown(value)}"
    try:
        passed = question.holds(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # abs of a text, a float of a huge int
        return TestResult(False, f"{returned}, which cannot be compared: {cut(str(error))}")
    return TestResult(passed, "" if passed else f"{returned}, expected {question.expected}")


class Opaque:
    """Stands for a returned value that is not plain. It is equal to nothing but itself."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"an object of type {self.kind}"


def _opaque(data: Sequence[Any]) -> Opaque:
    if data[0] != "h" or len(data) != 3 or not isinstance(data[2], str):
        raise codec.CodecError("not a handle")
    return Opaque(data[2])


def equal(expected: Any) -> Callable[[Any], bool]:
    """Python's `==` of plain values."""
    return lambda value: bool(value == expected)


def read_calls(problem: Problem, tolerance: float) -> list[Question]:
    """The field `tests` as a list of `{"function": ..., "args": [...], "kwargs": {...}, "expected": ...}`.

    A key whose value is null is missing, as Parquet writes it; but for `expected`: then None is expected.

    Raises:
        ValueError: it is something else (the problem is broken, not the response).
    """
    return [_question(problem, test, tolerance) for test in list_of_tests(problem)]


def _question(problem: Problem, entry: Any, tolerance: float) -> Question:
    test = without_nulls(entry, kept="expected")
    if (
        not isinstance(test, Mapping)
        or not {"function", "expected"} <= set(test) <= KEYS
        or not isinstance(test["function"], str)
        or not isinstance(test.get("args", []), list)
        or not isinstance(test.get("kwargs", {}), Mapping)
    ):
        raise ValueError(
            f"problem {problem.id!r}: a test of kind 'calls' must be an object with a text 'function', 'expected', and "
            f"if need be a list 'args' and an object 'kwargs'; got {str(entry)[:200]}"
        )
    call = FunctionCall(test["function"], tuple(test.get("args", ())), test.get("kwargs", {}))
    return call_question(call, test["expected"], tolerance)


def call_question(call: FunctionCall, expected: Any, tolerance: float) -> Question:
    """The question whether a call returns what JSON says (`alike`)."""
    arguments = [*map(repr, call.args), *(f"{name}={value!r}" for name, value in call.keywords.items())]
    text = cut(f"{call.function}({', '.join(arguments)})")
    return Question(call, text, lambda value: alike(value, expected, tolerance), shown(expected), _largest(expected))


def _largest(expected: Any) -> int:
    """Members of its largest object."""
    if isinstance(expected, Mapping):
        return max(len(expected), *map(_largest, expected.values()), 0)
    return max(map(_largest, expected), default=0) if isinstance(expected, list) else 0


def alike(value: Any, expected: Any, tolerance: float) -> bool:
    """Whether a returned value is what JSON says: tuples are lists, nan is nan, and a number may differ from an
    expected float by `tolerance` (absolute and relative). Integers, and true and false, are exact."""
    if isinstance(expected, list):
        same = isinstance(value, (list, tuple)) and len(value) == len(expected)
        return same and all(alike(*pair, tolerance) for pair in zip(value, expected, strict=True))
    if isinstance(expected, Mapping):
        same = isinstance(value, dict) and value.keys() == expected.keys()
        return same and all(alike(value[key], expected[key], tolerance) for key in expected)
    if isinstance(value, bool) is not isinstance(expected, bool):
        return False
    if isinstance(expected, float) and isinstance(value, (int, float)):
        if math.isnan(expected):
            return math.isnan(value)
        return value == expected or math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    return bool(value == expected)
