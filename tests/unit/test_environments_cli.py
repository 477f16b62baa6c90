"""`reasoner environments`, `plugins new --environment`, and the contract of tools and environments in real workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reasoner.plugins import manager as hooks
from reasoner.plugins.scaffold import ENVIRONMENT, write_plugin
from reasoner.testing import check_environment, check_tool, make_problem
from reasoner.testing.examples import example_arguments
from reasoner_environments.calculator import calculator
from reasoner_environments.guess_number import guess_number
from tests.command import Cli

BAD = str(Path(__file__).parents[1] / "integration" / "misbehaving_tools.py")
GAME = ("environments", "test", "guess-number", "--problem", '{answer = "7", low = 1, high = 9}')


def test_tools_and_environments_are_listed_and_shown(cli: Cli) -> None:
    listed = cli("environments", "list", "--plugin", BAD)
    assert {"guess-number", "calculator", "python", "trouble", "troubled"} <= set(listed.out.split())
    shown = cli("environments", "show", "python")
    assert '"code"' in shown.out
    assert "keep_variables: bool = False" in shown.out
    assert "[environment.tool_options.python]" in shown.out
    assert "built-in package reasoner_environments" in shown.out
    game = cli("environments", "show", "troubled", "--plugin", BAD).out
    assert "Tool touch, as the policy sees it" in game
    assert 'name = "troubled"' in game
    refused = cli("environments", "show", "pythn")
    assert refused.code == 2
    assert "there is no tool and no environment 'pythn'. Did you mean 'python'?" in " ".join(refused.err.split())


def test_a_tool_is_called_and_a_game_is_played(cli: Cli) -> None:
    called = cli("environments", "test", "calculator", "--arguments", '{expression = "6 * 7"}')
    assert (called.code, called.out.strip()) == (0, "calculator: 42")
    wrong = cli("environments", "test", "calculator", "--arguments", '{text = "6 * 7"}')
    assert wrong.code == 1
    assert "calculator has no argument 'text'" in wrong.out
    refused = cli(
        *("environments", "test", "calculator", "--arguments", '{expression = "10 * 10"}'),
        *("--options", "{max_digits = 2}"),
    )
    assert refused.code == 1
    assert "the result is too large: numbers may have 2 digits" in refused.out
    played = cli(*GAME, "--turn", "5", "--turn", "7", "--turn", "8")
    assert played.code == 0
    assert [line for line in played.out.splitlines() if not line.startswith("  ")] == [
        "policy: 5",
        "user: My number is higher than 5.",
        "policy: 7",
        "user: Right!",
    ]
    failed = cli("environments", "test", "guess-number", "--problem", '{answer = "7"}', "--turn", "5")
    assert failed.code == 1
    assert "The environment failed: error: KeyError: 'low'" in failed.out


def test_what_belongs_to_the_other_kind_is_refused(cli: Cli) -> None:
    assert "'calculator' is a tool" in cli("environments", "test", "calculator", "--turn", "x").err
    assert "is an environment: say what" in cli(*GAME, "--arguments", "{a = 1}").err
    assert "--problem 7: must be a table" in cli("environments", "test", "guess-number", "--problem", "7").err


def test_the_built_in_ones_keep_the_contract() -> None:
    for checklist in (
        check_tool(calculator, [{"expression": "6 * 7"}]),
        check_environment(guess_number, make_problem("Guess.", "7", low=1, high=9), ["5", "nothing", "7"]),
    ):
        assert (checklist.passed, checklist.unreached) == (True, ()), str(checklist)
    lines = str(check_environment(guess_number, make_problem("Guess.", "7", low=1, high=9), ["5"]))
    assert "FAIL  plays the given turns to the end: 1 turns, reward 0.36907: it goes on" in lines


GRUMPY = '''
from reasoner import ToolError, hookimpl, tool

@tool("grumpy")
def grumpy(text: str) -> str:
    """It refuses everything."""
    raise ToolError("no")

@hookimpl
def register_tools():
    return [grumpy]
'''


def test_what_was_not_checked_is_not_called_ok(cli: Cli, tmp_path: Path) -> None:
    """An environment that needs fields of its problem, and a tool that answers nothing made up."""
    checked = cli("plugins", "check", "guess-number")
    assert checked.code == 0
    assert "- starts: not checked: it refuses a problem without fields" in " ".join(checked.out.split())
    assert "- copes with unicode: not checked" in " ".join(checked.out.split())
    assert "Not everything was checked of guess-number" in checked.out
    plugin = tmp_path / "grumpy.py"
    plugin.write_text(GRUMPY)
    checked = cli("plugins", "check", str(plugin))
    assert checked.code == 0
    assert "- has a result: not checked: it refuses all made-up arguments" in " ".join(checked.out.split())
    assert "Not everything" not in cli("plugins", "check", "boxed_format").out


def test_what_breaks_the_contract_is_named(cli: Cli, tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(BROKEN)
    checked = cli("plugins", "check", str(plugin))
    assert checked.code == 1
    text = " ".join(checked.out.split())
    assert "FAIL copes with text = 1 + 1: no result after 0.5 s" in text
    assert "FAIL leaves its worker as it was" in text
    assert "FAIL copes with an empty turn: invalid: step must return an Observation" in text
    assert "FAIL starts in the same way for all responses to a problem" in text
    assert "The contract is broken by slow, untidy, fickle." in text


BROKEN = '''
import random, threading, time
from reasoner import environment, hookimpl, tool

@tool("slow", timeout_s=0.5)
def slow(text: str) -> str:
    """It takes its time."""
    if text == "1 + 1":
        time.sleep(30)
    return text

@tool("untidy")
def untidy() -> str:
    """It leaves a thread."""
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    return "done"

@environment("fickle")
class Fickle:
    """It starts anew each time."""
    def start(self, problem):
        return str(random.random())
    def step(self, turn):
        return 7

@hookimpl
def register_tools():
    return [slow, untidy]

@hookimpl
def register_environments():
    return [Fickle]
'''


def test_a_new_environment_keeps_the_contract_and_passes_its_own_test(tmp_path: Path) -> None:
    folder = write_plugin("walk-home", tmp_path, [], ENVIRONMENT)
    tests = folder / "tests" / "test_walk_home.py"
    text = tests.read_text().replace(
        "check_environment(walk_home, PROBLEM,",
        f"check_environment(walk_home, PROBLEM, plugins=[{str(folder)!r} + '/walk_home/__init__.py'], turns=",
    )
    tests.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "walk_home" / "game.py").is_file()


@pytest.mark.parametrize("name", ["calculator", "guess-number"])
def test_a_name_that_is_taken_is_refused(cli: Cli, tmp_path: Path, name: str) -> None:
    made = cli("plugins", "new", name, "--environment", "--output", str(tmp_path))
    taken = name.replace("-", "_") in {**hooks.tools(hooks.build_manager())}
    assert made.code == (2 if taken else 0)


def test_examples_fit_the_schema() -> None:
    schema = {
        "properties": {
            "a": {"type": "integer"},
            "b": {"enum": ["x", "y"]},
            "c": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        }
    }
    examples = example_arguments(schema)
    assert [set(each) for each in examples] == [{"a", "b", "c"}] * 4
    assert [each["b"] for each in examples] == ["x", "y", "x", "y"]
    assert example_arguments({"properties": {}}) == [{}]
