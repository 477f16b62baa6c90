"""Tests that look at more than plain values are judged as plain Python judges them, or are said not to be judged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reasoner.sandbox import ISOLATED, PYTHON, Limits, open_sandbox
from reasoner.sandbox.permission import ALLOWED
from reasoner.testing import make_problem, make_response
from reasoner_rewards.code.source import code
from tests.integration.code_semantics import PROBLEMS, Problem

FORKED = b"""
import json, os, sys
found = []
for text in json.load(open("programs.json")):
    with open("program.py", "w") as file:
        file.write(text)
    pid = os.fork()
    if pid == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        code = 1
        try:
            exec(compile(text, "program.py", "exec"), {"__name__": "program"})
            code = 0
        finally:
            os._exit(code)
    found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(found))
"""
"""runs each text as a program of its own, and prints how each ended"""


def programs() -> Iterator[tuple[Problem, str, str]]:
    for each in PROBLEMS:
        for kind, texts in (("right", (*filter(str.strip, [each.reference]), *each.right)), ("wrong", each.wrong)):
            for text in texts:
                yield each, text, kind


def in_python(cases: list[tuple[Problem, str, str]]) -> list[str]:
    """The verdict of program and test in one file, with `python`."""
    texts = [f"{program}\n\n{problem.test}" for problem, program, _ in cases]
    files = {"main.py": FORKED, "programs.json": json.dumps(texts).encode()}
    outcome = open_sandbox("auto").run([PYTHON, *ISOLATED, "main.py"], files, b"", Limits(wall_s=60.0, cpu_s=60.0))
    assert outcome.ok, outcome
    return ["wrong" if code else "right" for code in json.loads(outcome.stdout)]


def in_harness(case: tuple[Problem, str, str]) -> tuple[str, str]:
    """The verdict of the source, with its note."""
    given = make_problem("?", case[0].reference, tests=case[0].test)
    try:
        score = code(given, make_response(f"```python\n{case[1]}\n```"), tests="asserts")
    except ValueError as error:
        return "not judged", str(error)
    assert not isinstance(score, float)
    return ("right" if score.value == 1.0 else "wrong"), score.note


@pytest.mark.slow
def test_programs_are_judged_as_plain_python_judges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    cases = list(programs())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        result = list(pool.map(in_harness, cases))
    different = []
    for (problem, program, kind), plain, (verdict, note) in zip(cases, in_python(cases), result, strict=True):
        assert plain == kind, f"the table itself is wrong: {problem.name}: {plain} in plain Python:\n{program}"
        if verdict != (kind if problem.judged else "not judged"):
            different.append(f"{problem.name}: {kind} in plain Python, {verdict} here ({note}):\n{program}")
    assert not different, f"{len(different)} of {len(cases)}:\n" + "\n".join(different)
    assert {kind for *_, kind in cases} == {"right", "wrong"}
