"""Tests as the data sets of programming contests have them: `tests = "contest"`.

    {"inputs": [...], "outputs": [...], "fn_name": "f"}          APPS, TACO, PRIME and Eurus, DeepCoder
    {"input": [...], "output": [...]}                            code_contests
    [{"input": ..., "output": ..., "testtype": "functional"}]    LiveCodeBench, SYNTHETIC, Codeforces
    [{"input": ["3", "1 2"], "output": ["6"]}]                   the same, with the lines of a text as a list
    base64 of zlib of a pickle of JSON                           LiveCodeBench's private tests (`packed.py`)

Each is also read as JSON text, and a list of several of them as all of their tests. A test with a function, or of type
`functional`, is a call: of a function of that name, or of the method of a class `Solution`. All others are inputs of a
script.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoner import Problem
from reasoner_rewards.code.bindings import bound_names
from reasoner_rewards.code.calls import Question, alike, call_question
from reasoner_rewards.code.fields import missing
from reasoner_rewards.code.packed import unpack_text
from reasoner_rewards.code.process import Allowance, FunctionCall, Program
from reasoner_rewards.code.stdin import StdinCase

SOLUTION = "Solution"
"""the class whose methods LeetCode asks for"""
PRELUDE = """\
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
globals().pop({function!r}, None)
"""
"""what a function may use without an import, as on the sites that the problems are from; but for its own name, which a
program could leave to them otherwise (`gcd`)"""
_SECONDS = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(ms|milliseconds?|s|secs?|seconds?)?\s*", re.IGNORECASE)
_NESTED = 8
"""levels of lists and JSON texts in each other"""


@dataclass(frozen=True, slots=True)
class ContestTests:
    """The tests of a problem, all of one kind."""

    cases: tuple[StdinCase, ...]
    """inputs of a script, or none"""
    function: str
    """the function that is called; empty for a script"""
    questions: tuple[Question, ...]
    """its calls"""
    seconds: float | None
    """of a test, as the problem has it"""

    @property
    def names(self) -> frozenset[str]:
        """What a program must define one of; empty: it is run as a script."""
        return frozenset({self.function, SOLUTION}) if self.function else frozenset()

    def allowed(self, allowance: Allowance) -> Allowance:
        """With the problem's own limit on the time of a test, which is never longer than that of all of them."""
        seconds = allowance.timeout_s if self.seconds is None else self.seconds
        return replace(allowance, timeout_s=min(seconds, allowance.program_timeout_s))

    def program(self, text: str) -> Program:
        """The program as it is run: a function after what it may use without an import."""
        return Program((PRELUDE.format(function=self.function), text)) if self.function else Program((text,))

    def asked(self, text: str) -> list[Question]:
        """The calls of a program's function, or of its method where it is one of the class `Solution`."""
        if not _is_method(text, self.function):
            return [*self.questions]
        named = f"{SOLUTION}.{self.function}"
        return [replace(question, call=replace(question.call, function=named)) for question in self.questions]


def read_contest(problem: Problem, tolerance: float) -> ContestTests:
    """The field `tests`; with it `entry_point`, the name of a function that the tests do not name, and `time_limit`.

    Args:
        tolerance: how far a returned number may be from an expected float.

    Raises:
        ValueError: it is something else (the problem is broken, not the response).
    """
    if not problem.fields.get("tests"):
        raise missing(problem, "tests of a contest")
    try:
        return _read(problem.fields, tolerance)
    except ValueError as error:
        raise ValueError(
            f"problem {problem.id!r}: its tests are not as contests have them (docs/code.md): {error}. Its field "
            f"'tests' begins {str(problem.fields['tests'])[:200]}"
        ) from None


def _read(fields: Mapping[str, Any], tolerance: float) -> ContestTests:
    tests = [*_tests(fields["tests"])]
    seconds = _seconds(fields.get("time_limit"))
    if not tests:
        raise ValueError("there is no test")
    if len({test.is_call for test in tests}) > 1:
        raise ValueError("some tests call a function and some give input to a script")
    if not tests[0].is_call:
        return ContestTests(tuple(StdinCase(_text(test.input), _text(test.output)) for test in tests), "", (), seconds)
    functions = {test.function for test in tests} - {""} or {_entry_point(fields)}
    if len(functions) > 1 or functions == {""}:
        named = f"several functions ({', '.join(sorted(functions))})" if len(functions) > 1 else "no function"
        raise ValueError(
            f"the tests name {named}; one is needed, in 'fn_name', or in the field 'entry_point', which can be mapped: "
            "columns.entry_point=FIELD"
        )
    (function,) = functions
    return ContestTests((), function, tuple(_question(function, test, tolerance) for test in tests), seconds)


@dataclass(frozen=True, slots=True)
class _Test:
    """One test as it was read."""

    input: Any
    output: Any
    function: str = ""
    is_call: bool = False
    is_wrapped: bool = False
    """whether the output may be a list that holds what is expected, as APPS has it"""


def _tests(value: Any, depth: int = 0) -> Iterator[_Test]:
    """All tests of a value, in their order."""
    if value is None:
        return
    if depth > _NESTED:
        raise ValueError(f"nested more than {_NESTED} levels deep")
    if isinstance(value, str):
        yield from _tests(_parse_tests(value), depth + 1)
    elif isinstance(value, list):
        items = [_parse_tests(item) if isinstance(item, str) else item for item in value]
        as_lines = _are_lines([item for item in items if isinstance(item, Mapping)])
        for item in items:
            yield from (
                _tests_of_table(item, as_lines=as_lines) if isinstance(item, Mapping) else _tests(item, depth + 1)
            )
    elif isinstance(value, Mapping):
        yield from _tests_of_table(value)
    else:
        raise ValueError(f"a list or an object of tests is needed, got {type(value).__name__}")


def _parse_tests(text: str) -> Any:
    """What a text spells: JSON, plain or packed."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        packed = unpack_text(text)
    try:
        return json.loads(packed)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the packed text is not JSON: {error}") from None


def _are_lines(tables: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the lists in `input` and `output` of a list of objects are the lines of one test table, and not the tests
    of code_contests, whose texts end their lines themselves.

    Raises:
        ValueError: they can be read either way.
    """
    of_scripts = [table for table in tables if "inputs" not in table and not _calls(table) and not _kind(table)]
    pairs = [(table.get("input"), table.get("output")) for table in of_scripts]
    texts = [text for pair in pairs for side in pair if isinstance(side, list) for text in side]
    if any(isinstance(text, str) and "\n" in text for text in texts):
        return False
    lists = [(inputs, outputs) for inputs, outputs in pairs if isinstance(inputs, list) and isinstance(outputs, list)]
    if len(lists) < len(pairs) or any(len(inputs) != len(outputs) for inputs, outputs in lists):
        return True
    if all(len(inputs) <= 1 for inputs, _ in lists):
        return False  # it is the same either way
    raise ValueError(
        "lists in 'input' and 'output', of one length and without line ends, can be several tests or the lines of one: "
        "give the lines of a test as one text, or several tests as 'inputs' and 'outputs'"
    )


def _kind(table: Mapping[str, Any]) -> str:
    return str(table.get("testtype") or table.get("type") or "")


def _calls(table: Mapping[str, Any]) -> str:
    """The function that an object names; empty: none."""
    return str(table.get("fn_name") or table.get("func_name") or _metadata(table).get("func_name") or "")


def _tests_of_table(table: Mapping[str, Any], *, as_lines: bool = False) -> Iterator[_Test]:
    """The tests of an object: one, or several whose inputs and outputs are lists.

    Args:
        as_lines: a list in `input` or `output` is a text by its lines.
    """
    function, kind = _calls(table), _kind(table)
    is_call = bool(function) or kind in ("functional", "function_call")
    inputs, outputs = table.get("inputs"), table.get("outputs")
    if inputs is None and not as_lines and not kind and not function and isinstance(table.get("input"), list):
        inputs, outputs = table["input"], table.get("output")
    if inputs is None:
        if not {"input", "output"} <= table.keys():
            raise ValueError(f"a test needs 'input' and 'output', got {', '.join(map(repr, table)) or 'nothing'}")
        yield _Test(table["input"], table["output"], function, is_call, isinstance(table["output"], list))
        return
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("inputs and outputs must be lists of one length")
    for text, expected in zip(inputs, outputs, strict=True):
        yield _Test(text, expected, function, is_call, isinstance(expected, list))


def _metadata(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object `metadata`, also as JSON text; empty where there is none."""
    metadata = table.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            return {}
    return metadata if isinstance(metadata, Mapping) else {}


def _entry_point(fields: Mapping[str, Any]) -> str:
    """The function that the row names beside its tests."""
    name = fields.get("entry_point") or _metadata(fields).get("func_name") or fields.get("fn_name")
    return name if isinstance(name, str) else ""


def _text(value: Any) -> str:
    """Input or output of a script; a list of lines as text."""
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"input and output of a script are text or a list of lines, got {str(value)[:80]}")
    return str(value)


def _question(function: str, test: _Test, tolerance: float) -> Question:
    """A call: its arguments are a list, or a text with one of JSON on each line."""
    arguments = test.input
    if isinstance(arguments, str):
        arguments = [_value(line) for line in arguments.splitlines() if line.strip()]
    if not isinstance(arguments, list):
        raise ValueError(
            f"the input of a call must be its arguments, a list or lines of JSON, got {str(arguments)[:80]}"
        )
    expected = _value(test.output) if isinstance(test.output, str) and isinstance(test.input, str) else test.output
    question = call_question(FunctionCall(function, tuple(arguments)), expected, tolerance)
    if not (test.is_wrapped and len(expected) == 1):
        return question
    inner = expected[0]
    return replace(question, holds=lambda value: alike(value, expected, tolerance) or alike(value, inner, tolerance))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"an argument or result of a call must be JSON, got {text[:80]!r}") from None


def _seconds(value: Any) -> float | None:
    """A time limit: seconds, a text with a unit, or `{"seconds", "nanos"}`; None: there is none."""
    if isinstance(value, Mapping):
        parts = value.get("seconds") or 0, value.get("nanos") or 0
        value = parts[0] + parts[1] / 1e9 if all(isinstance(part, int | float) for part in parts) else str(value)
    if value is None or value == "":
        return None
    match = _SECONDS.fullmatch(str(value))
    if isinstance(value, bool) or not match:
        raise ValueError(
            f"the time limit must be seconds, a text such as '2 seconds', or seconds and nanos, got {value!r}"
        )
    return float(match[1]) / (1000.0 if (match[2] or "").lower().startswith("m") else 1.0) or None


def _is_method(text: str, function: str) -> bool:
    """Whether a program has the function in its class `Solution`."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == SOLUTION]
    methods = {node.name for cls in classes for node in cls.body if isinstance(node, ast.FunctionDef)}
    names = bound_names(tree)
    return function in methods or (SOLUTION in names and function not in names)
