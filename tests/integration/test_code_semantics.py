"""Tests that look at more than plain values are judged as plain Python judges them, or are said not to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reasoner.sandbox import ISOLATED, PYTHON, Limits, open_sandbox
from reasoner.sandbox.permission import ALLOWED
from reasoner.testing import make_problem, make_response
from reasoner_rewards.code.source import code
from tests.integration.code_semantics import PROBLEMS, Problem


def programs() -> Iterator[tuple[Problem, str, str]]:
    for each in PROBLEMS:
        for kind, texts in (("right", (*filter(str.strip, [each.reference]), *each.right)), ("wrong", each.wrong)):
            for text in texts:
                yield each, text, kind


def in_python(problem: Problem, program: str) -> str:
    files = {"main.py": f"{program}\n\n{problem.test}\n\nprint('passed')".encode()}
    limits = Limits(wall_s=8.0, cpu_s=8.0)
    outcome = open_sandbox("auto").run([PYTHON, *ISOLATED, "main.py"], files, b"", limits)
    return "right" if outcome.ok and outcome.stdout.endswith(b"passed\n") else "wrong"


def in_harness(problem: Problem, program: str) -> tuple[str, str]:
    given = make_problem("?", problem.reference, tests=problem.test)
    try:
        score = code(given, make_response(f"```python\n{program}\n```"), tests="asserts")
    except ValueError as error:
        return "not judged", str(error)
    return ("right" if score.value == 1.0 else "wrong"), score.note


def test_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    cases = list(programs())
    with ThreadPoolExecutor(2) as pool:
        plain = list(pool.map(lambda case: in_python(case[0], case[1]), cases))
        found = list(pool.map(lambda case: in_harness(case[0], case[1]), cases))
    different = []
    for (problem, program, kind), said, (verdict, note) in zip(cases, plain, found, strict=True):
        assert said == kind, f"{problem.name}: the case itself is wrong: {program}"
        expected = kind if problem.judged else "not judged"
        if verdict != expected:
            different.append(f"{problem.name}: {kind} in Python, {verdict} here ({note}):\n{program}")
    assert not different, f"{len(different)} of {len(cases)}:\n" + "\n".join(different)
