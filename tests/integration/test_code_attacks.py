"""Every attack of `code_attacks.py` is judged wrong, and nothing of it is left.

All of them in the best sandbox that works here; the rest of the sandboxes, which bring their own tests, and none at all
get one of each kind: the verdict does not depend on them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reasoner.sandbox import ISOLATED, PYTHON, Limits, SandboxError, interpreter, open_sandbox
from reasoner.sandbox.choose import UNSANDBOXED
from reasoner.sandbox.permission import ALLOWED
from tests.integration.code_attacks import (
    ATTACKS,
    BESIDE,
    GET_THROUGH_INSIDE,
    KEEPING_TIME,
    RIGHT,
    SLOW_TO_READ,
    Attack,
    judged,
    working,
)


def cases() -> Iterator[object]:
    for number, sandbox in enumerate(working()):
        for kind, attacks in ATTACKS.items():
            tried = [each for each in attacks if sandbox != UNSANDBOXED or not each.alone]
            for attack in tried if number == 0 else tried[:1]:
                yield pytest.param(sandbox, attack, id=f"{sandbox}-{attack.route}-{kind}-{attack.name}")


@pytest.mark.slow
@pytest.mark.parametrize(("sandbox", "attack"), list(cases()))
def test_it_passes_no_test_and_leaves_nothing(
    sandbox: str, attack: Attack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    try:
        score = judged(attack, sandbox)
    except SandboxError:
        # a failed call abstains: nothing is won either; but what is slow is wrong
        assert attack not in (*KEEPING_TIME, *SLOW_TO_READ)
    except ValueError:
        assert attack.abstains
    else:
        assert not attack.abstains
        assert (score.value, score.parts["tests_passed"]) == (0.0, 0), score.note
        assert score.note
    assert psutil.Process().children(recursive=True) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def library() -> Iterator[Path]:
    """A folder that others may look into, and not below the one that is a program's own inside."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [name for name in working() if name != UNSANDBOXED])
def test_a_program_sees_no_installed_package_and_not_the_one_that_made_its_problem(
    sandbox: str, monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    """Packages beside the interpreter's library, and one on the path of modules, as if this one was installed there."""
    for name in ("python3.11/site-packages/other", "python3/dist-packages/other", "python3.11/seen", "own"):
        (library / name).mkdir(parents=True)
        (library / name / "file.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(library / "own"))
    paths = interpreter.readable_paths()
    for module in ("interpreter", "backends.bubblewrap", "backends.sandlock"):
        monkeypatch.setattr(f"reasoner.sandbox.{module}.readable_paths", lambda: [*paths, library])
    interpreter.hidden_paths.cache_clear()
    program = f"import os\nfor each in sorted(os.walk({str(library)!r})): print(os.path.basename(each[0]), each[2])"
    outcome = open_sandbox(sandbox).run([PYTHON, *ISOLATED, "-c", program], {}, b"", Limits())
    interpreter.hidden_paths.cache_clear()
    result = dict(line.split(" ", 1) for line in outcome.stdout.decode().splitlines())
    assert result["seen"] == "['file.py']"
    assert "other" not in result
    assert result.get("own", "[]") == "[]"


def test_what_is_hidden_is_where_packages_are_and_never_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    library = Path(os.__file__).parent
    monkeypatch.setattr("reasoner.sandbox.interpreter.readable_paths", lambda: [root, library])
    monkeypatch.setattr(sys, "path", [*sys.path, str(library.parent), "/", str(library / "json")])
    interpreter.hidden_paths.cache_clear()
    hidden = interpreter.hidden_paths()
    interpreter.hidden_paths.cache_clear()
    assert {root / "reasoner", root / "rewards", root / "tasks", library / "json"} <= set(hidden)
    assert not any(path.is_relative_to(folder) for path in (library, library / "lib-dynload") for folder in hidden)


@pytest.mark.parametrize("right", RIGHT, ids=lambda right: right.route)
def test_right_programs_pass_the_same_tests(right: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    score = judged(right, "auto")
    assert (score.value, score.note) == (1.0, "")


INSIDE = [each for attacks in ATTACKS.values() for each in attacks if each.route != "stdin"] + BESIDE


@pytest.mark.slow
@pytest.mark.parametrize("attack", INSIDE, ids=lambda attack: f"{attack.route}-{attack.name}")
def test_inside_it_passes_no_test_unless_the_documentation_says_so(
    attack: Attack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each that passes is one that docs/code.md lists: one that no longer does must be taken from there."""
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    score = judged(attack, "auto", "inside")
    assert (score.value > 0) is (GET_THROUGH_INSIDE.get(attack.name) == attack.route), score.note
    assert psutil.Process().children(recursive=True) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("attack", BESIDE, ids=lambda attack: attack.name)
def test_what_gets_through_inside_does_not_outside(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    score = judged(attack, "auto")
    assert (score.value, score.parts["tests_passed"]) == (0.0, 0), score.note


def test_what_gets_through_inside_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "code.md").read_text(encoding="utf-8")
    table = page.partition("### Inside\n")[2].partition("\n### ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    through = {row.split(" | ")[0].removeprefix("| ") for row in rows if row.endswith(" passes |")}
    assert through == set(GET_THROUGH_INSIDE)


@pytest.mark.parametrize("right", [each for each in RIGHT if each.route != "stdin"], ids=lambda right: right.route)
def test_right_programs_pass_the_same_tests_inside(right: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    score = judged(right, "auto", "inside")
    assert (score.value, score.note) == (1.0, "")
