"""The reward source `code` on real programs, in the best sandbox that works here (or in none where there is none)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pytest

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, MissingDependencyError
from reasoner.records import Component, Problem, Score
from reasoner.sandbox import ISOLATED, PYTHON, Limits, Outcome, SandboxError, open_sandbox, permitted_sandbox
from reasoner.sandbox.permission import ALLOWED
from reasoner.scoring.composition import verdict
from reasoner.scoring.service import ScoringService
from reasoner.testing import Case, check_source, make_problem, make_response
from reasoner.testing.cases import score_cases
from reasoner_rewards.code import source
from reasoner_rewards.code.process import Allowance
from reasoner_rewards.code.source import code


@pytest.fixture(autouse=True)
def _permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")


def judged(program: str, problem: Problem, kind: str = "asserts", **options: Any) -> Score:
    score = code(problem, make_response(f"```python\n{program}\n```"), tests=kind, **options)
    assert isinstance(score, Score)
    return score


ADD = make_problem(
    "add", "def add(a, b): return a + b", tests=["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]
)


def test_a_right_program_and_what_its_parts_say() -> None:
    program = "def add(a, b):\n    return a + b"
    score = judged(program, ADD)
    assert score == Score(
        1.0,
        {
            "program": program,
            "compiled": True,
            "ran": True,
            "tests_passed": 2,
            "tests_total": 2,
            "timed_out": False,
        },
    )


@pytest.mark.parametrize(
    ("program", "parts", "note"),
    [
        ("def add(a, b): return 3", "C R - 1", "test 2 of 2: add('a', 'b') returned 3, expected 'ab'"),
        ("def add(a, b): return a - b", "C - - 0", "test 1 of 2: add(1, 2) returned -1, expected 3"),
        ("def add(a, b): return 1 / 0", "C - - 0", "test 1 of 2: add(1, 2) raised ZeroDivisionError: division by zero"),
        (
            "def sub(a, b): pass",
            "C - - 0",
            "test 1 of 2: add(1, 2) raised NameError: the program does not define",
        ),
        ("def add(a, b)", "- - - 0", "the program is not Python: SyntaxError: expected ':' (program.py, line 1)"),
        ("x = 1 / 0", "C - - 0", "the program fails before its first test: ZeroDivisionError: division by zero"),
        ("def add(a, b):\n    while True: pass", "C - T 0", "test 1 of 2: add(1, 2) took longer than 1 s"),
        (
            "def add(a, b): return add(a, b)",
            "C - - 0",
            "test 1 of 2: add(1, 2) raised RecursionError: maximum recursion",
        ),
        ("def add(a, b): return [0] * 10**9", "C - - 0", "test 1 of 2: add(1, 2) raised MemoryError"),
        ("import os\ndef add(a, b): os.abort()", "C - - 0", "test 1 of 2: add(1, 2) ended by signal 6"),
        ("\x00", "- - - 0", "the program is not Python: "),
        ("def add(a, b): return '\\x1b[31m\\ud800'", "C R - 0", "test 1 of 2: add(1, 2) returned '\\x1b[31m\\ud800'"),
    ],
)
def test_what_a_wrong_program_does_is_a_verdict(program: str, parts: str, note: str) -> None:
    score = judged(program, ADD, timeout_s=1.0, program_timeout_s=5.0)
    result = [score.parts["compiled"] and "C", score.parts["ran"] and "R", score.parts["timed_out"] and "T"]
    # a - b of texts raises, so that one did not run to its end either
    assert (score.value, " ".join(each or "-" for each in result) + f" {score.parts['tests_passed']}") == (0.0, parts)
    assert score.note.startswith(note)
    json.dumps([score.note, dict(score.parts)]).encode()


def test_a_response_without_a_program_is_a_verdict() -> None:
    score = code(ADD, make_response("def add(a, b): return a + b"), tests="asserts")
    assert score == Score(
        0.0,
        {"program": None, "compiled": False, "ran": False, "timed_out": False},
        "no program: there is no fenced block",
    )
    assert code(ADD, make_response("def add(a, b): return a + b"), tests="asserts", extract="all").value == 1.0


def test_a_fraction_by_option() -> None:
    assert judged("def add(a, b): return 3", ADD, score="fraction").value == 0.5
    assert judged("def add(a, b): return 3", ADD).value == 0.0


DRIVEN = make_problem(
    "?",
    "class Node: pass\ndef depth(node): pass\ndef count(n): yield 1",
    setup="root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)",
    tests=[
        "assert depth(root) == 3",
        "assert depth(root.left) == int('2')",
        "assert list(count(3)) == [0, 1, 2]",
        "assert sum(len(str(n)) for n in count(11)) == 12",
        "try:\n    count(-1)\nexcept ValueError as why:\n    assert 'negative' in str(why)\nelse:\n    assert False",
        "assert root.left is root.left and root.left != root and root.values[0] == 1",
    ],
)
NODE = """
class Node:
    def __init__(self, value):
        self.value, self.left = value, None
        self.values = self, value
        self.values = [value]
def depth(node):
    return 0 if node is None else 1 + depth(node.left)
def count(n):
    if n < 0:
        raise ValueError("negative")
    return (i for i in range(n))
"""


def test_tests_with_code_run_in_a_driver() -> None:
    score = judged(NODE, DRIVEN)
    assert (score.value, score.parts["tests_passed"], score.note) == (1.0, 6, "")


@pytest.mark.parametrize(
    ("change", "passed", "note"),
    [
        (("1 + depth", "2 + depth"), 4, "test 1 of 6: assert depth(root) == 3"),
        (("range(n)", "range(n + 1)"), 4, "test 3 of 6: assert list(count(3)) == [0, 1, 2]"),
        (("raise ValueError", "raise KeyError"), 5, "test 5 of 6: KeyError: 'negative': count(-1)"),
        (("class Node:", "class Other:"), 0, "test 1 of 6: setup: NameError: the program does not define 'Node'"),
        (("return 0 if", "return len() if"), 4, "test 1 of 6: TypeError: len() takes exactly one argument"),
    ],
)
def test_a_driver_says_which_test_fails(change: tuple[str, str], passed: int, note: str) -> None:
    score = judged(NODE.replace(*change), DRIVEN)
    assert (score.value, score.parts["tests_passed"]) == (0.0, passed)
    assert score.note.startswith(note)


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("import numpy\nassert f(1) == numpy.int64(1) - 0", "the tests cannot be run: ModuleNotFoundError"),
        ("class A: pass\nassert f(A()) == 1", "cannot be handed over: not a plain value: A"),
        ("import io\nassert f(io.StringIO()) == 1", "cannot be handed over: not a plain value: StringIO"),
        ("try:\n    f(object())\nexcept BaseException:\n    pass\nassert f(1) == 1", "cannot be handed over"),
        ("open('x.txt', 'w').close()\nassert f(1) == 1", "a test works with files, which the program does not share"),
        ("import os\nos.environ['A'] = '1'\nassert f(1) == 1", "a test changes the environment"),
        ("x = (1, 2)\nassert f(1) is not None and g(x) is x", "whether two equal values of type tuple are one"),
    ],
)
def test_tests_that_cannot_be_run_are_no_verdict(tests: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judged("def f(x): return 1\ndef g(x): return x", make_problem("?", "x", tests=tests))


def test_a_driver_hides_no_attribute_and_no_keyword_of_the_program() -> None:
    tests = """
thing = make(operation=1, self=2)
assert (thing._target, thing.target, thing._program, thing._kind) == (1, 2, 3, 4)
"""
    program = """
class Thing: pass
def make(**given):
    thing = Thing()
    thing._target, thing.target, thing._program, thing._kind = given["operation"], given["self"], 3, 4
    return thing
"""
    assert judged(program, make_problem("?", "x", tests=tests)).value == 1.0


def test_an_assertion_that_is_never_reached_is_not_passed() -> None:
    problem = make_problem("?", "def f(): pass", tests="for x in f():\n    assert x > 0")
    assert judged("def f(): return [1, 2]", problem).value == 1.0
    score = judged("def f(): return []", problem)
    assert (score.value, score.note) == (0.0, "test 1 of 1: never reached: assert x > 0")


HUMANEVAL = {
    "prelude": 'import math\n\ndef helper(x):\n    return math.floor(x)\n\ndef solve(x):\n    """ Find x. """\n',
    "entry_point": "solve",
    "tests": "def check(candidate):\n    for n in range(3):\n        assert helper(candidate(n) - n) == 0\n",
}


def test_what_the_problem_shows_comes_first_and_its_helpers_judge() -> None:
    problem = make_problem("?", "    return x", **HUMANEVAL)
    assert judged("def solve(x):\n    return math.ceil(x)", problem).value == 1.0
    assert judged("    return helper(x)", problem).value == 1.0
    assert judged("from __future__ import annotations\ndef solve(x): return x", problem).value == 1.0
    assert judged("def helper(x): return 0\ndef solve(x): return 99", problem).value == 0.0
    assert judged("x = 1", problem).value == 0.0


CALLS = make_problem(
    "?",
    "x",
    tests=[
        {"function": "split", "args": ["a b"], "expected": ["a", "b"]},
        {"function": "split", "args": ["a,b"], "kwargs": {"by": ","}, "expected": ["a", "b"]},
    ],
)


def test_calls() -> None:
    assert judged("def split(text, by=' '): return tuple(text.split(by))", CALLS, "calls").value == 1.0
    score = judged("def split(text, by=' '): return text.split()", CALLS, "calls")
    assert score.note == "test 2 of 2: split('a,b', by=',') returned ['a,b'], expected ['a', 'b']"


STDIN = make_problem("?", "x", tests=[{"input": "3\n", "output": "9\n"}, {"input": "1.5\n", "output": "2.25\n"}])
SQUARE = "import sys\nx = float(input())\n"


@pytest.mark.parametrize(
    ("program", "value", "note"),
    [
        (SQUARE + "print(x * x)", 1.0, ""),
        (SQUARE + "sys.stdout.write(str(x ** 2))\nexit()", 1.0, ""),
        (SQUARE + "import threading\nthreading.Thread(target=lambda: print(x * x)).start()", 1.0, ""),
        (SQUARE + "if __name__ == '__main__': print(x * x)", 1.0, ""),
        (SQUARE + "import os\nos.write(1, str(x * x).encode())\nos._exit(0)", 1.0, ""),
        (SQUARE + "print(9)", 0.5, "test 2 of 2: the input '1.5\\n': printed '9\\n', expected '2.25\\n'"),
        (SQUARE + "print(x * x)\nsys.exit(2)", 0.0, "test 1 of 2: the input '3\\n': exit 2"),
        (
            "print(int(input()) ** 2)",
            0.5,
            "test 2 of 2: the input '1.5\\n': exit 1, ValueError: invalid literal for int()",
        ),
        ("input()\ninput()", 0.0, "test 1 of 2: the input '3\\n': exit 1, EOFError: EOF when reading a line"),
        (SQUARE + "while True: pass", 0.0, "test 1 of 2: the input '3\\n': longer than 1 s"),
        (
            SQUARE + "while True: print('3' * 10**6)",
            0.0,
            "test 1 of 2: the input '3\\n': printed more than 8388608 bytes",
        ),
        ("import sys\nx = float(open('/dev/stdin').read())\nopen('/dev/stdout', 'w').write(str(x * x))", 1.0, ""),
        (
            "import os\nx = float(os.read(os.open('/dev/stdin', os.O_RDONLY), 9))\n"
            "print(x * x, file=open('/dev/fd/1', 'w'))",
            1.0,
            "",
        ),
        (
            SQUARE + "import threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**29)\n"
            "def deep(n): return deep(n - 1) if n else x * x\n"
            "threading.Thread(target=lambda: print(deep(20000))).start()",
            1.0,
            "",
        ),
        (SQUARE + "print(", 0.0, "the program is not Python: SyntaxError: '(' was never closed (program.py, line 3)"),
    ],
)
def test_standard_input_and_output(program: str, value: float, note: str) -> None:
    options = {"tolerance": 1e-9, "score": "fraction", "timeout_s": 1.0}
    score = judged(program, STDIN, "stdin", **options)
    assert score.value == value
    assert score.note.startswith(note)
    assert bool(score.note) is (value < 1.0)


def test_what_a_program_may_print_is_bounded_and_the_note_says_so() -> None:
    line = "1234567\n"
    count = 2**23 // len(line)  # all that it may print
    problem = make_problem("?", "x", tests=[{"input": "", "output": line * count}])
    right = f"for _ in range({count // 1024}): print('1234567\\n' * 1024, end='')"
    assert judged(right, problem, "stdin").value == 1.0
    score = judged(f"{right}\nprint()", problem, "stdin")
    assert (score.value, score.note) == (0.0, "test 1 of 1: the input '': printed more than 8388608 bytes")
    # characters that take more room on the way out
    problem = make_problem("?", "x", tests=[{"input": "", "output": "\u044f" * 2**22}])
    assert judged("print('\\u044f' * 2**22, end='')", problem, "stdin").value == 1.0
    score = judged("print('\\0' * 2**22)", problem, "stdin")
    assert score.note == "test 1 of 1: the input '': ValueError: the answer is longer than 16777216 bytes"


def test_what_all_tests_of_a_program_print_is_bounded_and_the_note_says_so() -> None:
    problem = make_problem("?", "x", tests=[{"input": "", "output": "1" * 2**22}] * 17)
    score = judged("print('1' * 2**22)", problem, "stdin", score="fraction")
    assert score.parts["tests_passed"] == 15
    assert "gave more than 67108864 bytes of answers to all tests" in score.note


def test_large_values_are_compared_and_larger_ones_named() -> None:
    problem = make_problem("?", "x", tests=[{"function": "f", "args": [200_000], "expected": [*range(200_000)]}])
    assert judged("def f(n): return list(range(n))", problem, "calls").value == 1.0
    score = judged("def f(n): return '1' * 2**24", problem, "calls")
    assert score.note == "test 1 of 1: f(200000) raised ValueError: the answer is longer than 16777216 bytes"


def test_texts_of_half_characters_come_out_as_they_are() -> None:
    problem = make_problem("?", "x", tests=["assert f() == ['\\ud83d' + '\\ude00', '\U0001f600']"])
    assert judged("def f(): return ['\\ud83d' + '\\ude00', '\U0001f600']", problem).value == 1.0


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("class Solution:\n    def add(self, a, b): return a + b", 1.0),
        ("class Solution:\n    @staticmethod\n    def add(a, b): return a + b", 1.0),
        (
            "class Solution:\n    n = 0\n    def add(self, *n): self.n += sum(n); return self.n",
            1.0,
        ),
        ("class Solution:\n    def add(self, a, b): return a - b", 0.0),
        ("class Solution:\n    def __init__(self, n): pass\n    def add(self, a, b): return a + b", 0.0),
        ("def add(a, b): return a + b", 0.0),
        ("class Solution: pass\n'Solution.add'", 0.0),
    ],
)
def test_calls_of_a_method_make_an_instance_for_each(program: str, value: float) -> None:
    tests = [{"function": "Solution.add", "args": [n, 1], "expected": n + 1} for n in (1, 2)]
    assert judged(program, make_problem("?", "x", tests=tests), "calls").value == value


def test_the_block_that_defines_what_is_tested_is_the_program() -> None:
    text = "```python\ndef add(a, b): return {}\n```\nUse:\n```python\nprint(add(1, 2))\n```\nIt prints\n```\n3\n```"
    assert code(ADD, make_response(text.format("a + b")), tests="asserts").value == 1.0
    score = code(ADD, make_response(text.format("3")), tests="asserts")
    assert score.note == (
        "test 2 of 2: add('a', 'b') returned 3, expected 'ab' "
        "(block 1 of 2: those after it define nothing that is tested)"
    )


CHECKER = """
import sys
input, expected, output = (open(name).read().split() for name in sys.argv[1:])
a, b = map(int, output)
print(int(a + b == int(input[0])))
"""
PARTS = make_problem("two integers with the sum n", "x", tests=[{"input": "7"}, {"input": "0"}], checker=CHECKER)


@pytest.mark.parametrize(
    ("output", "value", "note"),
    [
        ("print(int(input()) + 1, -1)", 1.0, ""),
        ("print(3, 4)", 0.5, "test 2 of 2: the input '0': printed '3 4\\n', which the checker does not accept (0)"),
        ("print('no numbers')", 0.0, "test 1 of 2: the input '7': printed 'no numbers\\n', which the checker does not"),
    ],
)
def test_a_checker_judges_outputs(output: str, value: float, note: str) -> None:
    score = judged(output, PARTS, "checker", score="fraction")
    assert score.value == value
    assert score.note.startswith(note)


def test_a_checker_is_needed_and_must_be_python() -> None:
    for checker, message in ((None, "has no checker"), ("print(", "the checker is not Python")):
        with pytest.raises(ValueError, match=message):
            judged("print(1)", make_problem("?", "x", tests=[{"input": "7"}], checker=checker), "checker")


def test_a_sandbox_that_fails_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoner_rewards.code.process.STUB", ["/nonexistent/python", "stub.py"])
    with pytest.raises(SandboxError):
        judged("def add(a, b): return a + b", ADD)


class Service:
    """A sandbox as a remote service is one: no live pipes, no arguments."""

    name, interactive = "a service", False

    def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Outcome:
        assert list(program[:-1]) == [PYTHON, *ISOLATED]
        return open_sandbox("none").run(program, files, stdin, limits)


def test_a_service_judges_all_but_tests_that_need_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_sandbox", lambda choice: Service())
    assert judged("def add(a, b): return a + b", ADD).value == 1.0
    assert judged("print(float(input()) ** 2)", STDIN, "stdin", tolerance=1e-9).value == 1.0
    assert judged("print(int(input()) + 1, -1)", PARTS, "checker").value == 1.0
    with pytest.raises(SandboxError, match="need a local sandbox; a service is none"):
        judged(NODE, DRIVEN)


def test_no_sandbox_is_refused_at_the_start_unless_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(choice: str) -> object:
        if choice == "none":
            return object()
        raise MissingDependencyError("no sandbox works here: install one")

    monkeypatch.setattr("reasoner.sandbox.permission.open_sandbox", nowhere)
    monkeypatch.delenv(ALLOWED)
    with pytest.raises(MissingDependencyError, match=r"install one\nTo run .* as you: --allow-unsandboxed-code\."):
        permitted_sandbox("auto")
    with pytest.raises(ConfigError, match="needs the option --allow-unsandboxed-code"):
        permitted_sandbox("none")
    monkeypatch.setenv(ALLOWED, "1")
    assert permitted_sandbox("auto") is not None
    with pytest.raises(MissingDependencyError):
        permitted_sandbox("bubblewrap")


def test_the_preflight_names_the_sandbox() -> None:
    assert code.ready({"tests": "stdin"}).startswith("sandbox: ")


def test_it_keeps_the_contract_of_a_source() -> None:
    right, wrong = (make_response(f"```python\ndef add(a, b): return {body}\n```") for body in ("a + b", "a"))
    cases = [Case(ADD, right, 1.0), Case(ADD, wrong, 0.0)]
    checklist = check_source(code, cases, options={"tests": "asserts"})
    assert checklist.passed, str(checklist)


def test_in_workers_a_slow_program_gets_a_verdict_and_a_broken_problem_a_failure() -> None:
    reward = RewardConfig(source="code", options={"tests": "asserts", "timeout_s": 1.0})
    programs = {"right": "def add(a, b): return a + b", "slow": "def add(a, b):\n    while 1: pass", "broken": "x = 1"}
    problems = {"right": ADD, "slow": ADD, "broken": make_problem("?", "x")}
    pairs = [(problems[name], make_response(f"```\n{text}\n```")) for name, text in programs.items()]
    with ScoringService([reward], ScoringConfig(workers=2, max_failure_rate=1.0)) as service:
        result: dict[str, Component] = dict(
            zip(programs, (parts[0] for parts in score_cases(service, pairs)), strict=True)
        )
    assert (result["right"].value, result["slow"].value, result["broken"].value) == (1.0, 0.0, None)
    assert result["slow"].parts["timed_out"]
    failure = result["broken"].failure
    assert failure is not None
    assert (failure.kind, "the field 'tests' must be" in failure.message) == ("error", True)


def chained_keys(bits: int = 17, chain: int = 65_000, more: int = 18_000) -> list[int]:
    """Keys of a dict of 2**bits places that takes quadratic time: the first ones fill the places in the order in which
    they are searched, and from where the others begin, the search goes along this chain to its end."""
    mask, order = 2**bits - 1, [0]
    while len(order) < chain:
        order.append((order[-1] * 5 + 1) & mask)
    filled = numpy.zeros(2**bits, bool)
    filled[order] = True
    keys = numpy.arange(1, 6_000_000, dtype=numpy.int64) << bits
    places, rest = numpy.zeros_like(keys), keys.copy()
    while rest.any():
        rest = rest >> 5
        places = (places * 5 + rest + 1) & mask
        kept = filled[places]
        keys, places, rest = keys[kept], places[kept], rest[kept]
    assert len(keys) >= more
    return [*order, *map(int, keys[:more])]


def test_in_workers_an_answer_that_is_slow_to_read_is_a_verdict_and_no_failure() -> None:
    """Without a bound, reading it takes longer than a call may."""
    line = (
        json.dumps(
            {"value": ["d", *(part for key in chained_keys() for part in (key, 0))]}, separators=(",", ":")
        ).encode()
        + b"\n"
    )
    program = f"""
import os
def add(a, b):
    for descriptor in range(3, 32):
        try:
            line = {line!r}
            while line:
                line = line[os.write(descriptor, line):]
        except OSError:
            pass
"""
    reward = RewardConfig(source="code", timeout_s=5.0, options={"tests": "asserts", "timeout_s": 2.0})
    with ScoringService([reward], ScoringConfig(workers=1, max_failure_rate=1.0)) as service:
        ((component,),) = score_cases(service, [(ADD, make_response(f"```\n{program}\n```"))])
    assert (component.value, component.failure) == (0.0, None)
    assert "a set or dict of 83000 members, more than can be expected" in component.note


LONG = 2**20
"""characters at which the parts of a score become too long for what a program in them would take"""


@pytest.mark.parametrize(
    ("problem", "kind", "program"),
    [
        (ADD, "asserts", "def add(a, b): return a + b"),
        (CALLS, "calls", "def split(text, by=' '): return text.split(by)"),
        (STDIN, "stdin", SQUARE + "print(x * x)"),
    ],
)
def test_a_right_program_is_right_whatever_its_length(problem: Problem, kind: str, program: str) -> None:
    for length in (LONG - 1, LONG, LONG + 1, source.MAX_PROGRAM):
        # in JSON, each of these characters takes twelve bytes
        text = program + "\n#" + "\U0001f40d" * (length - len(program) - 2)
        score = verdict(judged(text, problem, kind, tolerance=1e-9))
        assert score is not None
        assert (score.value, score.note, len(text)) == (1.0, "", length)
        assert score.parts["program"].endswith(f"# cut here: the program has {length} characters")
        assert len(score.parts["program"]) < source.MAX_KEPT + 100
    score = judged(text + "x", problem, kind)
    assert (score.value, score.note) == (0.0, f"not run: the program has {length + 1} characters, more than {length}")


def test_a_program_is_kept_whole_up_to_its_bound() -> None:
    program = "def add(a, b): return a + b\n"
    program += "#" * (source.MAX_KEPT - len(program))
    assert judged(program, ADD).parts["program"] == program
    assert "cut here" in judged(f"{program}#", ADD).parts["program"]


def test_a_set_is_compared_up_to_a_bound_or_to_what_the_test_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoner_rewards.code.calls.MAX_MEMBERS", 3)
    problem = make_problem("?", "x", tests=["assert f(2) == {0, 1}", "assert f(5) == {0, 1, 2, 3, 4}"])
    assert judged("def f(n): return set(range(n))", problem).value == 1.0
    score = judged("def f(n): return set(range(n + 2))", problem)
    assert score.note == (
        "test 1 of 2: f(2) gave no answer that can be read: a set or dict of 4 members, more than can be expected"
    )
    calls = make_problem("?", "x", tests=[{"function": "f", "expected": [{"a": 1, "b": 2, "c": 3, "d": 4}]}])
    assert judged("def f(): return [dict(a=1, b=2, c=3, d=4)]", calls, "calls").value == 1.0
    assert judged("def f(): return [dict(a=1, b=2, c=3, d=4, e=5)]", calls, "calls").value == 0.0


def test_what_answers_cost_here_has_the_time_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer is reached after the deadline: a verdict, and no failed call."""
    ends: list[float] = []
    as_it_is = Allowance.reading_ends

    def ended(self: Allowance, start: float) -> float:
        ends.append(as_it_is(self, start))
        return 0.0

    monkeypatch.setattr(Allowance, "reading_ends", ended)
    before = time.monotonic()
    score = judged("def add(a, b): return a + b", ADD, timeout_s=1.0, program_timeout_s=5.0)
    assert (score.value, score.parts["timed_out"], score.note) == (
        0.0,
        True,
        "test 1 of 2: add(1, 2): reading the answers took too long",
    )
    assert before + 5.0 <= ends[0] < time.monotonic() + 5.0


def test_a_program_that_is_not_answered_for_gets_no_more_than_its_time() -> None:
    """A line that comes in pieces, each in time, is late as a whole."""
    program = """
import os, time
def add(a, b):
    for _ in range(20):
        time.sleep(0.1)
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, b" ")
            except OSError:
                pass
    return a + b
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
"""
    score = judged(program, ADD, timeout_s=0.3, program_timeout_s=5.0)
    assert (score.value, score.note) == (0.0, "test 1 of 2: add(1, 2) took longer than 0.3 s")
