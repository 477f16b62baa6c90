"""One small file in the layout of each public data set of contests, with the columns that docs/code.md gives."""

from __future__ import annotations

import base64
import json
import pickle
import re
import tomllib
import zlib
from pathlib import Path
from typing import Any

import pytest

from reasoner.loading import load_config
from reasoner.planning.sources import read_sources
from reasoner.records import Problem
from reasoner.sandbox.permission import ALLOWED
from reasoner.testing import make_problem, make_response
from reasoner_rewards.code.source import code
from tests.command import Cli
from tests.tiny import build_tiny_model

CODE_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "code.md").read_text()
(PAGE,) = re.findall(r"^### Data sets of contests$(.*?)^### ", CODE_PAGE, re.MULTILINE | re.DOTALL)
SETTINGS = {
    found[1]: table
    for table in re.findall(r"^```toml\n(\[data\.\w+\]\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    if (found := re.search(r'^path = "(\w+)\.jsonl"$', table, re.MULTILINE))
}
HEAD = """
model.path = "tiny"
sampling.engine = "hf"
sampling.max_tokens = 100
sampling.max_prompt_tokens = 400
gro.preset = "grpo"
learning.problems_per_step = 1
data.overlap = "allow"
data.eval.missing = "empty"
"""
REWARD = re.findall(r"^```toml\n(\[\[rewards\]\].*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]

ADD = "a, b = map(int, input().split())\nprint(a + b)\n"
METHOD = (
    "class Solution:\n    def total(self, values: List[int], more: int) -> int:\n        return sum(values) + more\n"
)
FUNCTION = "def total(values, more):\n    return sum(values) + more\n"
INPUTS, OUTPUTS = ["1 2\n", "30 4\n"], ["3\n", "34\n"]
CASES = [{"input": given, "output": expected} for given, expected in zip(INPUTS, OUTPUTS, strict=True)]
CALLS = {"inputs": [[[1, 2], 3], [[], 4]], "outputs": [[6], [4]], "fn_name": "total"}


def packed(tests: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def of_live_code_bench(number: int, tests: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    kind = "functional" if "starter_code" in more else "stdin"
    tests = [{**test, "testtype": kind} for test in tests]
    row = {
        "answer": ADD,
        "question_title": "Sum",
        "question_content": f"Sum {number}",
        "starter_code": "",
        "metadata": "{}",
    }
    private = packed(tests[1:]) if number % 2 else json.dumps(tests[1:])
    return {**row, "public_test_cases": json.dumps(tests[:1]), "private_test_cases": private, **more}


def of_code_contests(number: int, limit: object) -> dict[str, Any]:
    sets = [{"input": [given], "output": [expected]} for given, expected in zip(INPUTS, OUTPUTS, strict=True)]
    return {
        "name": f"{number}_A",
        "description": f"Add two numbers ({number}).",
        "public_tests": sets[0],
        "private_tests": sets[1],
        "generated_tests": {"input": [], "output": []},
        "solutions": {"language": [2, 3], "solution": ["int main() {}", ADD]},
        "time_limit": limit,
    }


def of_codeforces(number: int, **more: Any) -> dict[str, Any]:
    formats = {"input_format": "Two numbers.", "output_format": "Their sum."}
    return {
        "description": f"Add ({number}).",
        **formats,
        "official_tests": CASES,
        "time_limit": 2.0,
        "answer": ADD,
        **more,
    }


CHECKER = (
    "import sys\nright, given = (open(name).read().split() for name in sys.argv[2:4])\nprint(int(right == given))\n"
)
# Where a data set has no programs, `answer` is added here, so that something is tried.
ROWS: dict[str, list[dict[str, Any]]] = {
    "livecodebench": [
        of_live_code_bench(1, CASES),
        of_live_code_bench(2, CASES),
        of_live_code_bench(
            3,
            [{"input": "[1, 2]\n3", "output": "6"}, {"input": "[]\n4", "output": "4"}],
            starter_code="class Solution:\n    def total(self, values: List[int], more: int) -> int:",
            metadata='{"func_name": "total"}',
            answer=METHOD,
        ),
    ],
    "apps": [
        {
            "question": "Add two numbers.",
            "input_output": json.dumps({"inputs": INPUTS, "outputs": OUTPUTS}),
            "solutions": json.dumps([ADD]),
        },
        {"question": "Add them all.", "input_output": json.dumps(CALLS), "solutions": json.dumps([METHOD])},
        {"question": "And again.", "input_output": json.dumps(CALLS), "solutions": ""},
    ],
    "taco": [
        {
            "question": f"Add two numbers, {limit}.",
            "input_output": json.dumps({"inputs": INPUTS, "outputs": OUTPUTS}),
            "solutions": json.dumps([ADD] if limit else []),
            "time_limit": limit,
        }
        for limit in ("2.0 seconds", None)
    ],
    "code_contests": [of_code_contests(1, {"seconds": 2, "nanos": 0}), of_code_contests(2, None)],
    "eurus": [
        {
            "data_source": "taco",
            "prompt": [{"role": "system", "content": "Write Python."}, {"role": "user", "content": f"Add {kind}."}],
            "ability": "code",
            "answer": answer,
            "reward_model": {"ground_truth": json.dumps(tests), "style": "rule"},
        }
        for kind, tests, answer in (("two", {"inputs": INPUTS, "outputs": OUTPUTS}, ADD), ("all", CALLS, FUNCTION))
    ],
    "synthetic": [
        {
            "prompt": "Add two numbers.",
            "gold_standard_solution": ADD,
            "verification_info": json.dumps(
                {"language": "python", "test_cases": [{**test, "type": "stdin_stdout"} for test in CASES]}
            ),
        },
        {
            "prompt": "Add all numbers.",
            "gold_standard_solution": f"```python\n{FUNCTION}```",
            "verification_info": json.dumps(
                {"test_cases": [{"fn_name": "total", "input": [[1], 2], "output": [3], "type": "function_call"}]}
            ),
        },
    ],
    "codeforces": [of_codeforces(1, generated_checker=None), of_codeforces(2, generated_checker=CHECKER)],
}


def test_every_data_set_of_the_page_has_a_file_here() -> None:
    assert SETTINGS.keys() == ROWS.keys()


def write_task(name: str) -> None:
    """The file, and a task that trains and evaluates on it."""
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    train = SETTINGS[name].replace("[data.eval]", "[data.train]")
    source = tomllib.loads(train)["data"]["train"]
    columns = "".join(f"data.eval.columns.{key} = {json.dumps(value)}\n" for key, value in source["columns"].items())
    Path("task.toml").write_text(f'{HEAD}data.eval.path = "{name}.jsonl"\n{columns}{train}{REWARD}')


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", ROWS)
def test_a_file_in_a_public_layout_is_read_tried_and_judged(
    name: str, model: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOWED, "1")
    Path("tiny").symlink_to(model)
    write_task(name)
    answers = [problem.answer for problem in problems_of()]
    right, without = sum(map(bool, answers)), sum(not answer for answer in answers)
    tested = cli("rewards", "test", "code", "--task", "task.toml")
    assert (tested.code, tested.err) == (0, ""), tested.out
    assert f"tried: {right} pass" in tested.out
    shown = cli("run", "task.toml", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    tried = re.search(r"problems of code +(.*)", shown.out)
    assert tried
    assert f"{2 * right} pass" in tried[1]
    assert not without or f"{2 * without} without a reference program" in tried[1]


def problems_of() -> tuple[Problem, ...]:
    """Of the task in this folder."""
    resolved = load_config("task.toml")
    return read_sources(resolved.config, resolved.manager, training=True).splits.train


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("program", ["print(5)", "def total(*_): return 5", ""])
def test_a_wrong_program_fails_in_each_layout(
    name: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOWED, "1")
    write_task(name)
    problems = problems_of()
    assert len(problems) == len(ROWS[name])
    scores = [code(problem, make_response(f"```python\n{program}\n```"), tests="contest") for problem in problems]
    assert [(score.value, score.parts["tests_passed"]) for score in scores] == [(0.0, 0)] * len(problems)


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("", 0.0),  # what may be used without an import is not the program's
        ("x = 1", 0.0),
        ("def gcd(a, b):\n    return b if a == 0 else gcd(b % a, a)", 1.0),
        (
            "class Solution:\n    def gcd(self, a: int, b: int) -> int:\n        return pow(math.gcd(a, b), 1, 1000)",
            1.0,
        ),
    ],
)
def test_a_function_is_the_programs_own(program: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    problem = make_problem("?", "", tests={"inputs": [[12, 18]], "outputs": [6], "fn_name": "gcd"})
    assert code(problem, make_response(f"```python\n{program}\n```"), tests="contest").value == value
