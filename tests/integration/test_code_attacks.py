"""Every attack of `code_attacks.py` is judged wrong, and nothing of it is left.

All of them in the best sandbox that works here; the rest of the sandboxes, which bring their own tests, and none at all
get one of each kind: the verdict does not depend on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reasoner.sandbox import SandboxError
from reasoner.sandbox.choose import UNSANDBOXED
from reasoner.sandbox.permission import ALLOWED
from tests.integration.code_attacks import ATTACKS, RIGHT, Attack, judged, working


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
        pass  # a failed call abstains: nothing is won either
    else:
        assert (score.value, score.parts["tests_passed"]) == (0.0, 0), score.note
        assert score.note
    assert psutil.Process().children(recursive=True) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("right", RIGHT, ids=lambda right: right.route)
def test_right_programs_pass_the_same_tests(right: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    score = judged(right, "auto")
    assert (score.value, score.note) == (1.0, "")
