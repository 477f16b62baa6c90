"""Assertions that run inside, beside the program, and reference programs held against plain Python."""

from __future__ import annotations

from typing import Any

import pytest

from reasoner.records import Problem
from reasoner.sandbox.permission import ALLOWED
from reasoner.testing import make_problem
from reasoner_rewards.code.source import CodeOptions, code
from tests.integration.test_code_source import ADD, CALLS, HUMANEVAL, STDIN, judged


@pytest.fixture(autouse=True)
def _permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")


PYTEST = make_problem(
    "?", "def f(n): return n", tests="def test_one():\n    assert f(1) == 1\n\ndef test_two(): assert f(2) == 2"
)


@pytest.mark.parametrize("harness", ["outside", "inside"])
def test_functions_in_the_style_of_pytest_decide(harness: str) -> None:
    assert judged("def f(n): return n", PYTEST, harness=harness).value == 1.0
    score = judged("def f(n): return 1", PYTEST, harness=harness)
    assert (score.value, score.note) == (0.0, "test 1 of 1: def test_two(): assert f(2) == 2")


FULL = [
    "from decimal import Decimal\nassert f(1) == Decimal('1.10') and isinstance(f(1), Decimal)",
    "values = [3, 1]\nassert g(values) is None and values == [1, 3]",
    "box = Box(2)\nassert box == Box(2) and box != Box(3) and bool(box)\n"
    "assert 2 in box and len(box) == 2 and str(box) == '<2>'",
    "with Box(1) as box:\n    assert hasattr(box, 'n')",
    "try:\n    leave(3)\nexcept SystemExit as end:\n    assert end.code == 3\nelse:\n    assert False",
    "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n    say()\n"
    "assert out.getvalue() == 'hi\\n'",
    "import asyncio\nassert asyncio.run(later()) == 4",
    "with open('data.txt', 'w') as file:\n    file.write('5')\nassert read('data.txt') == 5",
    "assert list(map(len, sorted([[1, 2], [3]], key=len))) == [1, 2] and f(0) == 0",
    "class Child(Box):\n    def __init__(self): super().__init__(7)\nassert Child().n == 7 and __name__ == 'program'",
    "import __main__, pickle, program\nfrom unittest.mock import ANY, patch\n"
    "assert pickle.loads(pickle.dumps(Box(1))) == Box(1) == program.Box(1) == __main__.Box(1) and [Box(1)] == [ANY]\n"
    "with patch('builtins.print') as mocked:\n    say()\nmocked.assert_called_once_with('hi')",
    "class Any:\n    def __eq__(self, other): return True\nassert Box(3) == Any() and Any() == Any()",
    "count()\ncount()\nassert counted == 2",
]
FULL_PROGRAM = """
from decimal import Decimal
def f(n): return Decimal('1.1') * n
def g(values): values.sort()
class Box:
    def __init__(self, n): self.n = n
    def __eq__(self, other): return getattr(other, 'n', self.n) == self.n
    def __contains__(self, n): return n == self.n
    def __len__(self): return self.n
    def __str__(self): return f'<{self.n}>'
    def __enter__(self): return self
    def __exit__(self, *_): return None
def leave(n): raise SystemExit(n)
def say(): print('hi')
async def later(): return 4
def read(name):
    with open(name) as file:
        return int(file.read())
counted = 0
def count():
    global counted
    counted += 1
"""


def test_tests_inside_have_all_of_python() -> None:
    problem = make_problem("?", FULL_PROGRAM, tests=FULL)
    score = judged(FULL_PROGRAM, problem, harness="inside")
    assert (score.value, score.note) == (1.0, "")
    assert check_problem(problem, harness="inside") == "pass, as in plain Python"
    changed = {
        "Decimal('1.1') * n": (0, "1.1 * n"),
        "values.sort()": (1, "return sorted(values)"),
        "== self.n": (2, "!= self.n"),
        "return self\n": (3, "return None\n"),
        "SystemExit(n)": (4, "SystemExit(0)"),
        "print('hi')": (5, "print('ho')"),
        "async def": (6, "def"),
        "int(file.read())": (7, "file.read()"),
        "global counted": (12, "counted = 0"),
    }
    for old, (number, new) in changed.items():
        problem = make_problem("?", FULL_PROGRAM, tests=[FULL[number]])
        assert judged(FULL_PROGRAM.replace(old, new), problem, harness="inside").value == 0.0, old


@pytest.mark.parametrize(
    ("program", "parts", "note"),
    [
        ("def add(a, b): return 3", "C R - 1", "test 2 of 2: assert add('a', 'b') == 'ab'"),
        (
            "def add(a, b): return 1 / 0",
            "C - - 0",
            "test 1 of 2: ZeroDivisionError: division by zero: assert add(1, 2)",
        ),
        ("def sub(a, b): pass", "C - - 0", "test 1 of 2: NameError: name 'add' is not defined: assert add(1, 2) == 3"),
        ("def add(a, b)", "- - - 0", "the program is not Python: SyntaxError: expected ':' (program.py, line 1)"),
        ("x = 1 / 0", "C - - 0", "the program fails before its first test: ZeroDivisionError: division by zero"),
        ("def add(a, b):\n    while True: pass", "C - T 0", "test 1 of 2: the program took longer than 1 s"),
        ("import os\ndef add(a, b): os.abort()", "C - - 0", "test 1 of 2: ended by signal 6"),
        ("import os\ndef add(a, b): os._exit(0)", "C - - 0", "test 1 of 2: ended with exit status 0 before its end"),
        (
            "abs = len = print\nimport builtins\nbuiltins.len = abs\ndef add(a, b): return a + b",
            "C R - 0",
            "test 1 of 2: ",
        ),
    ],
)
def test_what_a_wrong_program_does_inside_is_a_verdict(program: str, parts: str, note: str) -> None:
    score = judged(program, ADD, timeout_s=1.0, program_timeout_s=5.0, harness="inside")
    result = [score.parts["compiled"] and "C", score.parts["ran"] and "R", score.parts["timed_out"] and "T"]
    assert (score.value, " ".join(each or "-" for each in result) + f" {score.parts['tests_passed']}") == (0.0, parts)
    assert score.note.startswith(note)


def test_each_test_inside_has_a_fresh_process() -> None:
    program = "calls = []\ndef f():\n    calls.append(1)\n    return len(calls)"
    assert judged(program, make_problem("?", "x", tests=["assert f() == 1"] * 3), harness="inside").value == 1.0


def test_an_assertion_must_be_executed_inside() -> None:
    problem = make_problem("?", "def f(): pass", tests="for x in f():\n    assert x > 0")
    assert judged("def f(): return [1, 2]", problem, harness="inside").value == 1.0
    score = judged("def f(): return []", problem, harness="inside")
    assert (score.value, score.note) == (0.0, "test 1 of 1: no assertion was executed")
    # one that must not be executed is none of them
    problem = make_problem("?", "x", tests="try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    assert False")
    assert judged("def f(): raise ValueError", problem, harness="inside").value == 1.0
    assert judged("def f(): pass", problem, harness="inside").value == 0.0


def test_tests_inside_keep_pythons_builtins_unless_the_problem_asks_for_others() -> None:
    problem = make_problem("?", "def sum(*n): return 0", tests="assert sum(1, 2) == 3\nassert len([1]) == 1 == abs(-1)")
    own = "def sum(*n): return n[0] + n[1]\ndef len(x): return 5\nabs = len"
    assert judged(own, problem, harness="inside").value == 1.0
    assert judged("def sum(*n): return 4\ndef len(x): return 1\nabs = len", problem, harness="inside").value == 0.0
    # what the test itself calls so is its own
    problem = make_problem("?", "def f(): pass", tests="def len(x): return 7\nassert f(len) == 7")
    assert judged("def f(size): return size([])", problem, harness="inside").value == 1.0


def test_modules_of_the_tests_inside_are_pythons() -> None:
    problem = make_problem("?", "def f(): pass", tests="import math, random\nassert math.isclose(f(), 0.5)")
    assert judged("import math\ndef f(): return math.sqrt(0.25)", problem, harness="inside").value == 1.0
    fake = "import sys, types\nfake = sys.modules['math'] = types.ModuleType('math')\nfake.isclose = lambda *_: True\n"
    assert judged(f"{fake}def f(): return 0", problem, harness="inside").value == 0.0
    score = judged("import math\nmath.isclose = lambda *_: True\ndef f(): return 0", problem, harness="inside")
    assert (score.value, score.note) == (0.0, "test 1 of 1: the program changed math.isclose")
    # a state that changes by use is no change of the module
    assert (
        judged(
            "import random\nrandom.seed(1)\ndef f(): return random.random() * 0 + 0.5", problem, harness="inside"
        ).value
        == 1.0
    )


def test_what_inside_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="harness = 'inside' is for tests = 'asserts', got tests = 'calls'"):
        judged("def split(text): pass", CALLS, "calls", harness="inside")
    with pytest.raises(ValueError, match="the tests cannot be run: there is no module 'numpy' where programs run"):
        judged("def f(x): return 1", make_problem("?", "x", tests="import numpy\nassert f(1) == 1"), harness="inside")


def check_problem(problem: Problem, kind: str = "asserts", **options: Any) -> str:
    assert code.check_problem is not None
    return code.check_problem(problem, CodeOptions(tests=kind, **options))  # type: ignore[arg-type]


def test_a_reference_program_is_held_against_plain_python() -> None:
    assert check_problem(ADD) == "pass, as in plain Python"
    assert check_problem(make_problem("?", "Here:\n```python\ndef add(a, b): return a + b\n```", **TESTS_OF_ADD)) == (
        "pass, as in plain Python"
    )
    assert (
        check_problem(make_problem("?", "def add(a, b): return a", **TESTS_OF_ADD))
        == "do not pass, nor in plain Python"
    )
    assert check_problem(make_problem("?", "3", **TESTS_OF_ADD)) == "without a reference program"
    assert check_problem(make_problem("?", "", **TESTS_OF_ADD)) == "without a reference program"
    assert check_problem(make_problem("?", "    return x", **HUMANEVAL)) == "pass, as in plain Python"
    assert check_problem(STDIN, "stdin") == "do not pass"
    squares = make_problem("?", "print(float(input()) ** 2)", tests=STDIN.fields["tests"])
    assert check_problem(squares, "stdin", tolerance=1e-9) == "pass"
    with pytest.raises(ValueError, match="holds no assertion"):
        check_problem(make_problem("?", "x = 1", tests=["x"]))


TESTS_OF_ADD = {"tests": ADD.fields["tests"]}


@pytest.mark.parametrize(
    ("reference", "test", "why"),
    [
        # what is judged here is the program in a fresh process for every test
        (
            "n = []\ndef f(): n.append(1); return len(n)",
            ["assert f() == 1", "assert f() == 1"],
            "passes here and not in plain",
        ),
        (
            "def f(): return 1",
            ["x = f()\nassert x == 1", "assert x == 1"],
            "passes in plain Python and not here: test 2 of 2",
        ),
    ],
)
def test_a_difference_to_plain_python_names_the_test(reference: str, test: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=f"problem 'problem': the reference program {why}"):
        check_problem(make_problem("?", reference, tests=test), harness="inside")


TRICKS = {
    "names of its own module replaced": (
        "names = globals()\nfor name in list(names):\n    names[name] = lambda *a, **k: True\ndef f(n): return 0"
    ),
    "what looks for changes replaced": (
        "import builtins\nold = dict(vars(builtins))\nbuiltins.vars = lambda module: old\n"
        "builtins.exec = lambda *a: None\ndef f(n): return 0"
    ),
    "its own AssertionError": "class AssertionError(Exception): pass\ndef f(n): return 0",
    "an int equal to everything": (
        "class Int(int):\n    __hash__ = int.__hash__\n    def __eq__(self, other): return True\n"
        "def f(n): return Int(0)"
    ),
    "a thread that ends the process": (
        "import os, threading, time\n"
        "def f(n):\n    threading.Thread(target=lambda: os._exit(0)).start()\n    time.sleep(1)\n    return 0"
    ),
    "a process that goes on in its place": "import os\ndef f(n):\n    if os.fork(): os._exit(0)\n    return 0",
    "a trace function set in a test": (
        "import sys\ndef trace(*_): return trace\ndef f(n):\n    sys.settrace(trace)\n    return n"
    ),
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_wins_nothing_inside(name: str) -> None:
    problem = make_problem("?", "def f(n): return n", tests="import sys\nassert f(3) == 3")
    assert judged("def f(n): return n", problem, harness="inside").value == 1.0
    assert judged(TRICKS[name], problem, harness="inside").value == 0.0
