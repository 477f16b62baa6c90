"""What the fields of a problem ask of a program: assertions as calls or for a driver, calls, inputs; and comparing."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import pickle
import zlib
from typing import Any

import pytest

from reasoner.records import Problem
from reasoner.testing import make_problem
from reasoner_rewards.code import packed as packed_tests
from reasoner_rewards.code.asserts import read_asserts
from reasoner_rewards.code.calls import Opaque, alike, read_calls
from reasoner_rewards.code.contest import read_contest
from reasoner_rewards.code.process import Allowance
from reasoner_rewards.code.stdin import StdinCase, read_cases, same_output

REFERENCE = "import sys\ndef f(*args, **kwargs): pass\nclass Pair: pass"


def asking(*tests: str, answer: str = REFERENCE, **fields: Any) -> Problem:
    return make_problem("?", answer, tests=list(tests), **fields)


@pytest.mark.parametrize(
    ("test", "right", "wrong"),
    [
        ("assert f(1, [2], k=(3,)) == {4: None}", {4: None}, {4: 0}),
        ("assert (f(1)) == -1.5, 'message'", -1.5, 1.5),
        ("assert [1] == f(1)", [1], (1,)),
        ("assert f(1) == True", 1, 0),
        ("assert f(1) is True", True, 1),
        ("assert f(1) is None", None, False),
        ("assert f(1)", [0], []),
        ("assert not f(1)", 0, "0"),
        ("assert abs(f(1) - 0.5) < 1e-6", 0.5, math.nan),
        ("assert abs(2 - f(1)) <= 1", 3, 4),
        ("assert math.isclose(f(1), 0.3, rel_tol=0.1)", 0.31, 0.4),
        ("assert f(1) == 'ünïcode'", "ünïcode", "unicode"),
    ],
)
def test_assertions_about_one_call_become_calls(test: str, right: object, wrong: object) -> None:
    result = read_asserts(asking(test))
    assert result.names == ("f",)
    assert result.questions is not None
    (question,) = result.questions
    assert question.call.function == "f"
    assert question.holds(right)
    assert not question.holds(wrong)
    with contextlib.suppress(TypeError):  # then it is no number, and failed
        assert not question.holds(Opaque("Anything"))


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1) == g(2)",
        "assert f([Pair(1, 2)]) == 3",
        "assert f(1, int) == 3",
        "assert f(*[1]) == 3",
        "assert int(f(1)) == 3",
        "assert f(1) == 1 == 1",
        "assert f(1) != 2",
        "assert f(1).x == 2",
        "for n in range(3):\n    assert f(n) == n",
        "x = f(1)\nassert x == 2",
        "assert f(1) == 10 ** 3",
        "assert f(...) == 1",
        "f(1)\nassert True",
    ],
)
def test_other_tests_need_a_driver(test: str) -> None:
    assert read_asserts(asking("assert f(1) == 2", test)).questions is None


def test_a_program_that_is_asked_for_an_abs_of_its_own_needs_one_too() -> None:
    assert read_asserts(asking("assert abs(abs(-1) - 1) < 1e-6", answer="def abs(x): pass")).questions is None


def test_humaneval_tests_are_calls_of_the_entry_point() -> None:
    test = """
METADATA = {'author': 'x'}

def check(candidate):
    assert True, "this prints if it fails"
    assert candidate([1], 2) == 3, "first"
    assert not candidate("a")
    assert abs(candidate(1.5) - 2.5) < 1e-6
"""
    fields: dict[str, Any] = {
        "tests": test,
        "entry_point": "add",
        "prelude": "import math\ndef add(x):\n    '''Add.'''\n",
    }
    result = read_asserts(make_problem("?", "    return x + 1", **fields))
    assert result.questions is not None
    assert [question.text for question in result.questions] == ["add([1], 2)", "add('a')", "add(1.5)"]
    assert result.sources[0].endswith("check(add)\n")
    assert result.program("    return x + 1\n").sources == (
        "import math\ndef add(x):\n    '''Add.'''\n    return x + 1\n",
    )
    body = "\n   \n    return x + 1\n"  # as HumanEval's problem 81 has it
    assert result.program(body).sources == (f"import math\ndef add(x):\n    '''Add.'''\n{body}",)
    assert len(result.program("   \ndef add(x): pass").sources) == 2
    # an unfinished function of the prompt must not stand in for one that the program does not define
    assert result.program("def other(): pass").sources == ("import math", "def other(): pass")


def test_whose_a_name_is_is_read_from_the_problem() -> None:
    test = """
values = sorted(map(f, [1]))
assert abs(sum(values)) < math.pi and len(values) == helper(Pair(1)) == sys.maxsize
"""
    result = read_asserts(asking(test, prelude="def helper(pair): return 1"))
    assert result.names == ("Pair", "f")
    assert result.setup == "import math\nimport sys\n"
    # a builtin is the tests' own, unless the reference program defines it
    assert read_asserts(asking("assert sum(1, 2) == 3 == len([])", answer="def sum(a, b): return a + b")).names == (
        "sum",
    )
    assert read_asserts(asking("assert copy(3) == 3", answer="no program")).names == ("copy",)


def test_the_operators_that_a_problem_asks_for_are_those_of_its_reference_program() -> None:
    answer = """
import functools
from collections import UserDict
from dataclasses import dataclass
class Vec:
    def __add__(self, other): pass
    __radd__ = __add__
class Sub(Vec): pass
@dataclass(order=True)
class Point: x: int
class Table(UserDict): pass
class Pair: pass
"""
    result = read_asserts(asking("assert Pair(1).x == 2", answer=answer)).operators
    assert result is not None
    assert result["Vec"] == result["Sub"] == ["__add__", "__radd__"]
    assert {"__eq__", "__lt__", "__ge__"} <= {*result["Point"]}
    assert {"__contains__", "__eq__"} <= {*result["Table"]}
    assert result["Pair"] == []
    # an answer that does not define what the tests ask for says nothing of it
    assert read_asserts(asking("assert Pair(1).x == 2", answer="see above")).operators is None
    assert read_asserts(asking("assert Pair(1).x == 2", answer="import sys")).operators is None


def test_where_objects_compare_themselves_an_answer_may_be_one_of_them() -> None:
    answer = "class Money:\n    def __eq__(self, other): pass\ndef f(x): pass"
    assert read_asserts(asking("assert f(1) == 2", answer=answer)).questions is None
    assert read_asserts(asking("assert f(1) == 2")).questions is not None


def test_of_an_object_it_is_asked_only_whether_it_is_true() -> None:
    for test, truth in (("assert f(1)", True), ("assert not f(1)", True), ("assert f(1) == 1", False)):
        result = read_asserts(asking(test)).questions
        assert result is not None
        assert [question.call.truth for question in result] == [truth]


def test_an_assignment_to_something_else_than_a_name_does_something() -> None:
    assert read_asserts(asking("x = 1\nassert f(1) == 2")).questions is not None
    assert read_asserts(asking("import os\nos.environ['x'] = '1'\nassert f(1) == 2")).questions is None


def test_setup_runs_in_the_driver_unless_it_only_imports() -> None:
    assert read_asserts(asking("assert f(1) == 2", imports=["import math", "import re"])).questions is not None
    assert read_asserts(asking("assert f(root) == 2", setup="root = Pair(1)")).names == ("Pair", "f")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"the field 'tests' must be Python text, or a list of it, got None\. Its fields: question, answer\."),
        ({"tests": []}, "must be Python text"),
        ({"tests": [1]}, "must be Python text"),
        ({"tests": ["assert f("]}, r"the field 'tests' is not Python: .*; got 'assert f\('"),
        ({"tests": "assert f(1)", "setup": 3}, "field 'setup': text is needed, got 3"),
        ({"tests": "assert f(1)", "prelude": "def f(:"}, "the field 'prelude' is not Python"),
    ],
)
def test_broken_assertions_are_the_problems_fault(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_asserts(make_problem("?", "x", **fields))


def test_calls_are_read_and_shown() -> None:
    tests = [{"function": "f", "args": [1, "a"], "kwargs": {"k": None}, "expected": [2]}]
    (question,) = read_calls(make_problem("?", "x", tests=tests), 0.0)
    assert (question.text, question.expected) == ("f(1, 'a', k=None)", "[2]")
    assert question.holds((2,))
    assert not question.holds([3])


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        ([1, (2, [3])], [1, [2, [3]]], True),
        ({"a": (1,)}, {"a": [1]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([1], [1, 2], False),
        (0.30000000001, 0.3, True),
        (0.31, 0.3, False),
        (math.nan, 0.3, False),
        (1, True, False),
        (True, 1, False),
        (1, 1.0, True),
        (1.0, 1, True),
        (1.0000001, 1, False),
        (1.0000001, 1.0, True),
        (1000000008, 1000000007, False),
        (1000000007.0, 1000000007, True),
        (1000000008.0, 1000000007, False),
        (3333333.3333, 3333333, False),
        (10**100, 10**100, True),
        (10**100 + 1, 10**100, False),
        (1e100, 10**100, False),
        (-0.0, 0, True),
        (True, 1.0, False),
        (1.0, True, False),
        (0, False, False),
        ([True], [1.0], False),
        ({"a": 1000000008}, {"a": 1000000007}, False),
        (math.nan, math.nan, True),
        (0.5, math.nan, False),
        (1, math.nan, False),
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (1e308, math.inf, False),
        ("1", 1, False),
        (Opaque("X"), 1, False),
        (None, None, True),
    ],
)
def test_values_are_compared_with_json(value: object, expected: object, same: bool) -> None:
    assert alike(value, expected, 1e-6) is same


def test_without_a_tolerance_floats_are_exact_and_kinds_still_count() -> None:
    assert not alike(0.30000000000000004, 0.3, 0.0)
    assert alike(1, 1.0, 0.0)
    assert not alike(True, 1.0, 0.0)
    assert alike(math.nan, math.nan, 0.0)


def without(test: dict[str, Any], *keys: str) -> dict[str, Any]:
    return test | dict.fromkeys(keys)


def test_keys_that_are_null_are_missing_as_parquet_writes_them() -> None:
    full = {"function": "f", "args": [1], "kwargs": {"k": None}, "expected": 2}
    tests = [
        full,
        without(full, "kwargs", "fn_name", "input", "output"),
        without(full, "args", "kwargs"),
        without(full, "expected"),
    ]
    first, second, third, fourth = read_calls(make_problem("?", "x", tests=tests), 0.0)
    assert [each.text for each in (first, second, third)] == ["f(1, k=None)", "f(1)", "f()"]
    # the expectation is one: None
    assert fourth.holds(None)
    assert not fourth.holds(2)
    for broken in (without(full, "function"), {"function": "f", "args": [1]}, full | {"fn_name": "g"}):
        with pytest.raises(ValueError, match="a test of kind 'calls' must be"):
            read_calls(make_problem("?", "x", tests=[broken]), 0.0)


def test_outputs_that_are_null_are_missing_too() -> None:
    tests = [{"input": "1", "output": None, "fn_name": None}]
    assert read_cases(make_problem("?", "x", tests=tests), outputs=False) == [StdinCase("1", None)]
    with pytest.raises(
        ValueError, match=r"must be an object with the texts 'input' and 'output', got \{'input': '1', 'output': None"
    ):
        read_cases(make_problem("?", "x", tests=tests), outputs=True)
    with pytest.raises(ValueError, match="must be an object"):
        read_cases(make_problem("?", "x", tests=[{"input": None, "output": "1"}]), outputs=True)


def test_fields_of_asserts_that_are_null_are_missing_too() -> None:
    result = read_asserts(asking("assert f(1) == 2", setup=None, imports=None, prelude=None, entry_point=None))
    assert (result.setup, result.prelude, result.entry_point, result.names) == ("", "", "", ("f",))
    assert result.questions is not None


@pytest.mark.parametrize(
    "test", [{}, {"function": 1, "expected": 1}, {"function": "f"}, {"function": "f", "expected": 1, "arg": []}, "f(1)"]
)
def test_broken_calls_are_the_problems_fault(test: object) -> None:
    with pytest.raises(ValueError, match="a test of kind 'calls' must be an object with"):
        read_calls(make_problem("?", "x", tests=[test]), 0.0)


def test_cases_are_read_from_a_list_or_json_text() -> None:
    text = '[{"input": "1", "output": "2"}]'
    assert read_cases(make_problem("?", "x", tests=text), outputs=True) == [StdinCase("1", "2")]
    assert read_cases(make_problem("?", "x", tests=[{"input": "1"}]), outputs=False) == [StdinCase("1", None)]


@pytest.mark.parametrize("test", [{"input": "1"}, {"input": 1, "output": "2"}, {"output": "2"}, ["1", "2"], "1"])
def test_broken_cases_are_the_problems_fault(test: object) -> None:
    with pytest.raises(ValueError, match="a test must be an object with the texts 'input' and 'output'"):
        read_cases(make_problem("?", "x", tests=[test]), outputs=True)
    with pytest.raises(ValueError, match="must be a list, got nothing"):
        read_cases(make_problem("?", "x", tests="nothing"), outputs=True)


@pytest.mark.parametrize(
    ("printed", "tolerance", "same"),
    [
        ("1 2\nthree\n", 0.0, True),
        ("1 2  \r\nthree\n\n\n", 0.0, True),
        ("1 2\nthree", 0.0, True),
        ("1  2\nthree", 0.0, False),
        ("1 2\n\nthree", 0.0, False),
        ("\n1 2\nthree", 0.0, False),
        ("1 2", 0.0, False),
        ("1.0 2.0000001\nthree", 0.0, False),
        ("1.0 2.0000001\nthree", 1e-6, False),
        ("1.0 2\nthree", 1e-6, True),
        ("1  2\nthree", 1e-6, True),
        ("1 2.1\nthree", 1e-6, False),
        ("1 nan\nthree", 1e-6, False),
        ("1 2 3\nthree", 1e-6, False),
        ("1 two\nthree", 1e-6, False),
        ("", 1e-6, False),
    ],
)
def test_outputs_are_compared_by_lines_and_numbers(printed: str, tolerance: float, same: bool) -> None:
    assert (same_output(tolerance)(StdinCase("", "1 2\nthree\n"), printed) == "") is same


BIG = "9" * 100


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("1000000007", "1000000008", False),
        ("1000000007", "1000000007.0", True),
        ("1000000007", "1000000008.0", False),
        ("1000000007", "1000000007.0000001", False),
        ("1000000000", "1e9", True),
        ("1000000001", "1e9", False),
        ("1000000001", "1.000000001E+9", True),
        ("3333333", "3333333.3333", False),
        ("5", "+5", True),
        ("+5", "5", True),
        ("0", "-0", True),
        ("-0", "0.0", True),
        ("5", "-5", False),
        ("5", "5.", True),
        ("5", "05", True),
        ("5", "5_0", False),
        ("50", "5_0", False),
        ("5", "nan", False),
        ("5", "True", False),
        ("5", "1e999999999", False),
        (BIG, BIG, True),
        (BIG, f"{BIG}.0", True),
        (BIG, BIG[:-1] + "8", False),
        (BIG, "1e100", False),
        ("0.5", "0.5000001", True),
        ("2.0", "2", True),
        ("2.0", "3", False),
        ("1.5 7", "1.5000001 7", True),
        ("1.5 7", "1.5000001 7.0000001", False),
        ("yes", "yes", True),
    ],
)
def test_a_tolerance_never_applies_to_integers(expected: str, printed: str, same: bool) -> None:
    assert (same_output(1e-6)(StdinCase("", expected), printed) == "") is same
    # without one, texts are compared
    assert (same_output(0.0)(StdinCase("", expected), printed) == "") is (expected == printed)


def sources(*tests: str, **fields: Any) -> tuple[str, ...]:
    return read_asserts(asking(*tests, **fields)).sources


def test_functions_as_pytest_finds_them_are_called_in_their_order() -> None:
    test = """
values = [1, 2]
def test_second(): assert f(2) == 2
def helper(n): assert f(n) == n
def test_first(n=1): helper(n)
"""
    (source,) = sources(test)
    assert source == f"{test}\ntest_second()\ntest_first()\n"
    assert read_asserts(asking(test)).questions is None
    assert read_asserts(asking(test)).names == ("f",)


@pytest.mark.parametrize(
    "test",
    [
        "def test_f(): assert f(1) == 1\ntest_f()",
        "def test_f(n): assert f(n) == n\nfor n in range(3): test_f(n)",
        "def check(g): assert g(1) == 1\ncheck(f)",
        "class Case:\n    def run(self): assert f(1) == 1\nCase().run()",
        "class TestF:\n    def test_f(self): assert f(1) == 1\nTestF().test_f()",
        "def unused(): pass\nassert f(1) == 1",
        "class Stub:\n    def get(self): raise KeyError\nassert f(1) == 1",
        "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError",
        "testing = f(1)\nassert testing == 1",
        "import unittest\nunittest.TestCase().assertEqual(f(1), 1)",
    ],
)
def test_tests_that_run_as_they_stand_stay_as_they_are(test: str) -> None:
    assert sources(test) == (test,)


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("f(1)", "holds no assertion"),
        ("print(f(1) == 2)", "holds no assertion"),
        ("def test_f():\n    return f(1) == 2", "holds no assertion"),
        ("def test_f(value): assert f(value) == 1", "the function test_f with arguments: there are no fixtures"),
        ("def test_f(*, value): assert f(value) == 1", "the function test_f with arguments"),
        ("@parametrize('n', [1])\ndef test_f(): assert f(1) == 1", "the decorated function test_f, which needs pytest"),
        ("async def test_f(): assert await f(1) == 1", "the asynchronous function test_f, which needs pytest"),
        ("class TestF:\n    def test_f(self): assert f(1) == 1", "the class TestF, which nothing runs"),
        (
            "import unittest\nclass F(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 1)",
            "the class F, which nothing runs",
        ),
        ("if __name__ == '__main__':\n    assert f(1) == 1", "a block for `__main__`"),
        ("assert f(1) == 1\nif '__main__' == __name__: assert f(2) == 2", "a block for `__main__`"),
        ("def check(candidate): assert candidate(1) == 1", "the function check, which nothing calls"),
        ("assert f(0) == 0\ndef more(): assert_equal(f(1), 1)", "the function more, which nothing calls"),
        ("assert f(0) == 0\ndef more(): assert f(1) == 1", "the function more, which nothing calls"),
    ],
)
def test_tests_that_would_never_run_are_refused_when_they_are_read(test: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"problem 'problem': a test .*{why}.*; got "):
        read_asserts(asking("assert f(1) == 1", test))


def test_a_helper_of_one_test_may_be_called_by_another() -> None:
    tests = ("def check(n): assert f(n) == n", "check(1)\nassert True")
    assert sources(*tests) == tests


# Tests as the data sets of contests have them


def packed(text: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


CASES = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}, {"input": "3 4\n", "output": "7\n"}]


@pytest.mark.parametrize(
    "tests",
    [
        {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]},  # APPS, TACO
        {"inputs": [["1 2", ""], "3 4\n"], "outputs": [["3", ""], "7\n"], "fn_name": None},
        json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}),
        {"input": ["1 2\n", "3 4\n"], "output": ["3\n", "7\n"]},  # code_contests
        CASES,  # LiveCodeBench, Codeforces
        json.dumps(CASES),
        packed(json.dumps(CASES)),
        [json.dumps(CASES[:1]), packed(json.dumps(CASES[1:])), None, ""],  # public and private ones
        [
            {"input": ["1 2\n"], "output": ["3\n"]},
            None,
            {"input": ["3 4\n"], "output": ["7\n"]},
            {"input": [], "output": []},
        ],
        [{**test, "type": "stdin_stdout"} for test in CASES],  # SYNTHETIC
    ],
)
def test_inputs_of_a_contest_are_read_however_they_are_kept(tests: Any) -> None:
    result = read_contest(make_problem("?", "", tests=tests), 0.0)
    assert result.cases == (StdinCase("1 2\n", "3\n"), StdinCase("3 4\n", "7\n"))
    assert (result.function, result.questions, result.names) == ("", (), frozenset())


@pytest.mark.parametrize(
    ("tests", "cases"),
    [
        ([{"input": ["2", "1 2"], "output": ["3"]}], [("2\n1 2", "3")]),
        ([{"input": ["2", "1 2"], "output": ["3", "4"], "testtype": "stdin"}], [("2\n1 2", "3\n4")]),
        (
            [{"input": ["1", "2"], "output": ["3", "4"]}, {"input": ["5"], "output": "6"}],
            [("1\n2", "3\n4"), ("5", "6")],
        ),
        (
            [{"input": "1", "output": ["3", "4"]}, {"input": ["1", "2"], "output": ["3", "4"]}],
            [("1", "3\n4"), ("1\n2", "3\n4")],
        ),
        (json.dumps([{"input": [2, "1 2"], "output": [3]}]), [("2\n1 2", "3")]),
        ([json.dumps({"input": ["2", "1 2"], "output": ["3"]})], [("2\n1 2", "3")]),
        # near misses: several tests, as code_contests has them
        ([{"input": ["1\n", "2\n"], "output": ["3\n", "4\n"]}], [("1\n", "3\n"), ("2\n", "4\n")]),
        ([{"input": ["1\n2", "2"], "output": ["3", "4"]}], [("1\n2", "3"), ("2", "4")]),
        ([{"input": ["1"], "output": ["3"]}, {"input": ["2"], "output": ["4"]}], [("1", "3"), ("2", "4")]),
        ({"input": ["1", "2"], "output": ["3", "4"]}, [("1", "3"), ("2", "4")]),
        ({"inputs": ["1", "2"], "outputs": ["3", "4"]}, [("1", "3"), ("2", "4")]),
        ([{"inputs": ["1", "2"], "outputs": ["3", "4"]}], [("1", "3"), ("2", "4")]),
        ([{"input": [], "output": []}, {"input": ["1\n"], "output": ["3\n"]}], [("1\n", "3\n")]),
    ],
)
def test_a_list_of_lines_is_one_test(tests: Any, cases: list[tuple[str, str]]) -> None:
    assert read_contest(make_problem("?", "", tests=tests), 0.0).cases == tuple(StdinCase(*case) for case in cases)


FUNCTIONAL = {"input": "[1, 2]\n3\n", "output": "[3]", "testtype": "functional"}


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({"tests": {"inputs": [[[1, 2], 3]], "outputs": [[[3]]], "fn_name": "f"}}, [3], 4),  # APPS wraps results
        ({"tests": {"inputs": [[[1, 2], 3]], "outputs": [[3]], "fn_name": "f"}}, 3, [4]),
        ({"tests": {"inputs": [[[1, 2], 3]], "outputs": [[3, 4]], "fn_name": "f"}}, [3, 4], 3),
        ({"tests": [{"fn_name": "f", "input": [[1, 2], 3], "output": [3], "type": "function_call"}]}, 3, 4),
        ({"tests": [FUNCTIONAL], "metadata": '{"func_name": "f"}'}, [3], 3),  # LiveCodeBench
        ({"tests": json.dumps([{**FUNCTIONAL, "metadata": {"func_name": "f"}}])}, [3], 3),  # DeepCoder
        ({"tests": packed(json.dumps([FUNCTIONAL])), "entry_point": "f"}, [3], 3),
    ],
)
def test_calls_of_a_contest_are_read_however_they_are_kept(fields: dict[str, Any], right: Any, wrong: Any) -> None:
    result = read_contest(make_problem("?", "", **fields), 0.0)
    (question,) = result.questions
    assert (result.function, question.call.args) == ("f", ([1, 2], 3))
    assert result.names == {"f", "Solution"}
    assert question.holds(right)
    assert not question.holds(wrong)


@pytest.mark.parametrize(
    ("program", "called"),
    [
        ("def f(a, b): pass", "f"),
        ("class Solution:\n    def f(self, a, b): pass", "Solution.f"),
        ("class Solution:\n    def f(self, a, b): pass\ndef f(a, b): pass", "Solution.f"),
        ("class Solution(Base): pass", "Solution.f"),
        ("class Solution: pass\ndef f(a, b): pass", "f"),
        ("class Solution:\n    def g(self): pass\nf = 1", "f"),
        ("def f(", "f"),
    ],
)
def test_a_contest_calls_the_function_or_the_method_that_a_program_has(program: str, called: str) -> None:
    result = read_contest(make_problem("?", "", tests={"inputs": [[1]], "outputs": [1], "fn_name": "f"}), 0.0)
    assert [question.call.function for question in result.asked(program)] == [called]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (2, 2.0),
        (1.5, 1.5),
        ("2 seconds", 2.0),
        ("2.0 Seconds", 2.0),
        (".5 s", 0.5),
        ("1500 ms", 1.5),
        ("250 milliseconds", 0.25),
        ("3", 3.0),
        ({"seconds": 1, "nanos": 500_000_000}, 1.5),
        ({"seconds": None, "nanos": 500_000_000}, 0.5),
        ({"seconds": 20, "nanos": 0}, 12.0),  # as long as all tests may take
        (None, 4.0),
        ("", 4.0),
        ({"seconds": 0, "nanos": 0}, 4.0),
    ],
)
def test_the_time_limit_of_a_problem_holds_in_the_place_of_the_option(limit: Any, seconds: float) -> None:
    result = read_contest(make_problem("?", "", tests=CASES, time_limit=limit), 0.0)
    assert result.allowed(Allowance(4.0, 12.0, 512)).timeout_s == seconds


class Runs:
    """Unpickled, it would do something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it was loaded",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the field 'tests' must be tests of a contest, got None"),
        ({"tests": []}, "the field 'tests' must be tests of a contest"),
        ({"tests": [None, ""]}, "there is no test"),
        ({"tests": 7}, "a list or an object of tests is needed, got int"),
        ({"tests": "print(1)"}, "neither JSON nor base64"),
        ({"tests": "aGVsbG8="}, "base64 of something that zlib cannot decompress"),
        ({"tests": base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-4]).decode()}, "cut short"),
        ({"tests": base64.b64encode(zlib.compress(b"\xff")).decode()}, "no pickle"),
        ({"tests": packed("no json")}, "the packed text is not JSON"),
        ({"tests": packed(Runs())}, "holds more than one text .* loading a pickle runs what is in it"),
        ({"tests": packed(["[]"])}, "holds more than one text"),
        ({"tests": packed(CASES)}, "Save the tests as JSON"),
        ({"tests": [{"input": "1"}]}, "a test needs 'input' and 'output', got 'input'"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, "inputs and outputs must be lists of one length"),
        ({"tests": {"inputs": [{}], "outputs": ["1"]}}, "input and output of a script are text"),
        ({"tests": [{"input": ["1", "2"], "output": ["3", "4"]}]}, "can be several tests or the lines of one"),
        ({"tests": [{"input": ["1\n", "2\n"], "output": ["3\n"]}]}, "inputs and outputs must be lists of one length"),
        ({"tests": [FUNCTIONAL]}, "the tests name no function; .*columns.entry_point=FIELD"),
        ({"tests": [CASES[0], {**FUNCTIONAL, "fn_name": "f"}]}, "some tests call a function and some give input"),
        (
            {"tests": [{**FUNCTIONAL, "fn_name": "f"}, {**FUNCTIONAL, "fn_name": "g"}]},
            r"the tests name several functions \(f, g\)",
        ),
        ({"tests": [{**FUNCTIONAL, "fn_name": "f", "input": "[1"}]}, "an argument or result of a call must be JSON"),
        ({"tests": {"inputs": [3], "outputs": [3], "fn_name": "f"}}, "must be its arguments"),
        ({"tests": CASES, "time_limit": "soon"}, "the time limit must be seconds, .*got 'soon'"),
        ({"tests": CASES, "time_limit": True}, "the time limit must be seconds"),
    ],
)
def test_tests_of_another_shape_are_the_problems_fault(
    fields: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=f"problem 'problem'.*{message}"):
        read_contest(make_problem("?", "", **fields), 0.0)
    assert capsys.readouterr().out == ""


def test_tests_are_unpacked_once_for_all_responses_of_a_group() -> None:
    packed_tests.unpack_text.cache_clear()
    for _ in range(3):
        read_contest(make_problem("?", "", tests=packed(json.dumps(CASES))), 0.0)
    result = packed_tests.unpack_text.cache_info()
    assert (result.misses, result.hits) == (1, 2)


def test_what_stands_for_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tests, "MAX_UNPACKED", 10_000)
    with pytest.raises(ValueError, match="more than 10,000 bytes"):
        read_contest(make_problem("?", "", tests=packed("[" + " " * 20_000 + "]")), 0.0)
