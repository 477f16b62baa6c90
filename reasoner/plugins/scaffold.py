"""The start of a plugin of one's own: a distribution with one verifier and its test, that installs with pip."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Collection
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
description = "A verifier for reasoner."
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

INIT = '''\
"""The plugin `@NAME@`: what reasoner calls."""

from collections.abc import Iterable

from reasoner import RewardSource, hookimpl

from @PACKAGE@.verifier import @PACKAGE@


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """`@PACKAGE@`."""
    return [@PACKAGE@]
'''

VERIFIER = '''\
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

TEST = '''\
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

README = """\
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


def write_plugin(name: str, parent: Path, taken: Collection[str]) -> Path:
    """Write the distribution `name` into the new folder `parent/name`.

    Args:
        taken: names of registered reward sources, which the plugin's own must not be.

    Raises:
        UserError: the name cannot be a distribution's, is taken, or the folder exists or cannot be written.
    """
    package = package_of(name, taken)
    folder = parent / name
    if folder.exists():
        raise UserError(f"{folder} exists, and nothing is overwritten: choose another name, or a folder with --output.")
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{package}/__init__.py": INIT,
        f"{package}/verifier.py": VERIFIER,
        f"tests/test_{package}.py": TEST,
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder, new=True) as temporary:
            for path, text in files.items():
                (temporary / path).parent.mkdir(exist_ok=True)
                (temporary / path).write_text(_filled(text, name, package), encoding="utf-8")
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
        raise UserError(f"there is a reward source {package!r} already; take another name.")
    return package


def _filled(text: str, name: str, package: str) -> str:
    return text.replace("@NAME@", name).replace("@PACKAGE@", package)
