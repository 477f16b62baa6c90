"""The start of a plugin of one's own: a distribution with a verifier or an environment and its test, for pip."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from reasoner.errors import UserError
from reasoner.io.atomic_files import replacing_folder

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
description = "@WHAT@ for reasoner."
requires-python = ">=3.11"
dependencies = ["reasoner"]

[project.optional-dependencies]
test = ["pytest>=8"]

# How reasoner finds it: every module named here is a plugin.
[project.entry-points.reasoner]
@PACKAGE@ = "@PACKAGE@"

[tool.hatch.build.targets.wheel]
packages = ["@PACKAGE@"]
"""

_VERIFIER_INIT = '''\
"""The plugin `@NAME@`: what reasoner calls."""

from collections.abc import Iterable

from reasoner import RewardSource, hookimpl

from @PACKAGE@.verifier import @PACKAGE@


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`@PACKAGE@`."""
    return [@PACKAGE@]
'''

_VERIFIER = '''\
"""The reward source `@PACKAGE@`: 1.0 if the last line of a response is the reference answer."""

from reasoner import Problem, Response, Score, reward

MOST = 200
"""characters of an answer that are stored"""


@reward("@PACKAGE@", timeout_s=1.0)
def @PACKAGE@(problem: Problem, response: Response, *, ignore_case: bool = True) -> Score:
    """1.0 if the last line of the response is the reference answer, else 0.0.

    Args:
        ignore_case: whether `Paris` and `paris` are the same
    """
    lines = response.text.strip().splitlines()
    found, wanted = lines[-1].strip() if lines else "", problem.answer.strip()
    if ignore_case:
        found, wanted = found.casefold(), wanted.casefold()
    equal = bool(wanted) and found == wanted
    # Parts are stored with the response; `extracted` and `reference` are read by the evaluation and by
    # `reasoner rewards test`. A response can be long, so they are cut.
    parts = {"extracted": found[:MOST] or None, "reference": wanted[:MOST]}
    return Score(float(equal), parts, "" if equal else f"the last line is {found[:MOST]!r}")
'''

_VERIFIER_TEST = '''\
"""What `@PACKAGE@` must return, and the contract of reward sources."""

from reasoner.testing import Case, check_source, make_problem, make_response

from @PACKAGE@ import @PACKAGE@

pytest_plugins = ["reasoner.testing.pytest_plugin"]

CAPITAL = make_problem("What is the capital of France?", "Paris")
CASES = [
    Case(CAPITAL, make_response("It is the largest city.\\nParis"), 1.0),
    Case(CAPITAL, make_response("paris"), 1.0),
    Case(CAPITAL, make_response("Paris\\nor Lyon"), 0.0),
    Case(CAPITAL, make_response(""), 0.0),
]


def test_it_keeps_the_contract():
    checklist = check_source(@PACKAGE@, CASES)
    assert checklist.passed, str(checklist)


def test_case_counts_when_it_is_asked_for(score_in_worker):
    component = score_in_worker(@PACKAGE@, CAPITAL, make_response("paris"), ignore_case=False)
    assert (component.value, component.failure) == (0.0, None)
'''

_VERIFIER_README = """\
# @NAME@

The reward source `@PACKAGE@` for reasoner.

```bash
pip install -e '.[test]'              # into the environment that reasoner is in
pytest
reasoner plugins list                 # @NAME@ is among them
reasoner plugins check @NAME@
reasoner rewards show @PACKAGE@
```

In a task or `--config` file:

```toml
[[rewards]]
source = "@PACKAGE@"
weight = 1.0
```

The verifier is `@PACKAGE@/verifier.py`; start there.
"""


_ENVIRONMENT_INIT = '''\
"""The plugin `@NAME@`: what reasoner calls."""

from collections.abc import Iterable

from reasoner import EnvironmentKind, hookimpl

from @PACKAGE@.game import @PACKAGE@


@hookimpl
def register_environments() -> Iterable[EnvironmentKind]:
    """`@PACKAGE@`."""
    return [@PACKAGE@]
'''

_ENVIRONMENT = '''\
"""The environment `@PACKAGE@`: the policy walks to a number, with a tool that this environment brings."""

from reasoner import Message, Observation, Problem, ToolError, Turn, environment, tool


@environment("@PACKAGE@", timeout_s=5.0)
class @PACKAGE@:
    """The policy walks along a line until it stands on the number that is asked for.

    Args:
        longest: steps that one call may take
    """

    def __init__(self, *, longest: int = 10) -> None:
        self.longest = longest

    def start(self, problem: Problem) -> str:
        """Called once. What it returns is added to the prompt, the same for all responses to the problem."""
        self.goal = int(problem.answer)
        self.place = 0
        return f"You stand on 0. Walk to {self.goal}."

    @tool("walk")
    def walk(self, steps: int) -> str:
        """Walk along the line.

        Args:
            steps: how many; below 0 to walk back
        """
        if abs(steps) > self.longest:
            raise ToolError(f"at most {self.longest} steps at a time")
        self.place += steps
        return f"You stand on {self.place}."

    def step(self, turn: Turn) -> Observation:
        """Called after every turn of the policy, once its tools were called."""
        arrived = self.place == self.goal
        if arrived or not turn.calls:
            return Observation(done=True, reward=float(arrived), parts={"place": self.place})
        return Observation((Message("user", "Go on."),), reward=0.0)
'''

_ENVIRONMENT_TEST = '''\
"""What `@PACKAGE@` does, and the contract of environments."""

from reasoner import Turn
from reasoner.testing import check_environment, make_problem

from @PACKAGE@ import @PACKAGE@

PROBLEM = make_problem("Walk.", "7")


def test_it_keeps_the_contract():
    checklist = check_environment(@PACKAGE@, PROBLEM, ["I stay here."])
    assert checklist.passed, str(checklist)


def test_a_game():
    game = @PACKAGE@(longest=5)
    assert game.start(PROBLEM) == "You stand on 0. Walk to 7."
    assert game.walk(5) == "You stand on 5."
    assert game.walk(2) == "You stand on 7."
    assert game.step(Turn("assistant", 0, 1, "")).reward == 1.0
'''

_ENVIRONMENT_README = """\
# @NAME@

The environment `@PACKAGE@` for reasoner.

```bash
pip install -e '.[test]'              # into the environment that reasoner is in
pytest
reasoner plugins list                 # @NAME@ is among them
reasoner plugins check @NAME@
reasoner environments show @PACKAGE@
```

In a task or `--config` file:

```toml
[environment]
name = "@PACKAGE@"
format = "tags"

[[rewards]]
source = "environment"
```

The environment is `@PACKAGE@/game.py`; start there.
"""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What a plugin starts with."""

    what: str
    """a few words for its description"""
    module: str
    """where its author starts"""
    init: str
    code: str
    test: str
    readme: str


VERIFIER = Scaffold("A verifier", "verifier", _VERIFIER_INIT, _VERIFIER, _VERIFIER_TEST, _VERIFIER_README)
ENVIRONMENT = Scaffold(
    "An environment", "game", _ENVIRONMENT_INIT, _ENVIRONMENT, _ENVIRONMENT_TEST, _ENVIRONMENT_README
)


def write_plugin(name: str, parent: Path, taken: Collection[str], start: Scaffold = VERIFIER) -> Path:
    """Write the distribution `name` into the new folder `parent/name`.

    Args:
        taken: names of registered reward sources, tools and environments, which the plugin's own must not be.
        start: what it starts with.

    Raises:
        UserError: the name cannot be a distribution's, is taken, or the folder exists or cannot be written.
    """
    package = package_of(name, taken)
    folder = parent / name
    if folder.exists():
        raise UserError(f"{folder} exists, and nothing is overwritten: choose another name, or a folder with --output.")
    files = {
        "pyproject.toml": PYPROJECT.replace("@WHAT@", start.what),
        "README.md": start.readme,
        f"{package}/__init__.py": start.init,
        f"{package}/{start.module}.py": start.code,
        f"tests/test_{package}.py": start.test,
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder, new=True) as temporary:
            for path, text in files.items():
                (temporary / path).parent.mkdir(exist_ok=True)
                (temporary / path).write_text(_fill(text, name, package), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose a folder with --output.") from error
    return folder


def package_of(name: str, taken: Collection[str] = ()) -> str:
    """The import name of a distribution, which is also the name of its reward source.

    Raises:
        UserError: it is not one, or it is taken.
    """
    package = name.replace("-", "_")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is not a valid name for a plugin: use lower-case letters and digits, words joined by one "
            f"'-', a letter "
            "first, such as 'unit-verifier'."
        )
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or package.partition("_")[0] == "reasoner":
        raise UserError(
            f"{name!r} is not a valid name for a plugin: Python or reasoner has a module of that name. Choose another."
        )
    if package in taken:
        raise UserError(f"there is a reward source, tool or environment {package!r} already; take another name.")
    return package


def _fill(text: str, name: str, package: str) -> str:
    return text.replace("@NAME@", name).replace("@PACKAGE@", package)
