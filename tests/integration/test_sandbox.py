"""Programs in every sandbox that works here: what goes in, what comes out, and how they end."""

from __future__ import annotations

import pytest

from reasoner.errors import MissingDependencyError
from reasoner.sandbox import ISOLATED, PYTHON, Limits, Outcome, Sandbox, open_sandbox
from reasoner.sandbox.choose import BACKENDS, UNSANDBOXED


def working() -> list[str]:
    found = []
    for name in BACKENDS:
        try:
            open_sandbox(name)
        except MissingDependencyError:
            continue
        found.append(name)
    return found


@pytest.fixture(params=[*working(), UNSANDBOXED])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return open_sandbox(request.param)


def python(sandbox: Sandbox, source: str, stdin: bytes = b"", limits: Limits = Limits()) -> Outcome:  # noqa: B008
    return sandbox.run([PYTHON, *ISOLATED, "main.py"], {"main.py": source.encode()}, stdin, limits)


def test_a_program_reads_its_input_and_files_and_prints(sandbox: Sandbox) -> None:
    source = "import sys; print(input() + open('data/words.txt').read()); sys.exit(3)"
    files = {"main.py": source.encode(), "data/words.txt": b" world"}
    outcome = sandbox.run([PYTHON, *ISOLATED, "main.py"], files, b"hello\n", Limits())
    assert (outcome.end, outcome.code, outcome.stdout) == ("exit", 3, b"hello world\n")
    assert not outcome.ok


def test_a_signal_is_told_from_an_exit(sandbox: Sandbox) -> None:
    outcome = python(sandbox, "import os; os.kill(os.getpid(), 11)")
    assert (outcome.end, outcome.code, outcome.stderr) == ("signal", 11, b"")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\0b"])
def test_a_file_stays_in_the_scratch_folder(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        sandbox.run([PYTHON], {path: b""}, b"", Limits())


def test_lines_go_back_and_forth(sandbox: Sandbox) -> None:
    source = b"while True: print(input()[::-1], flush=True)"
    with sandbox.open([PYTHON, *ISOLATED, "main.py"], {"main.py": source}, Limits()) as session:
        for _ in range(3):
            session.send(b"abc\n")
            assert session.receive_line() == b"cba\n"
        outcome = session.outcome()
    assert outcome.stdout == b"cba\n" * 3
    assert outcome.stderr.endswith(b"EOFError: EOF when reading a line\n")
