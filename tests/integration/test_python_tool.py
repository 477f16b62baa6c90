"""The tool `python` in a real sandbox: what it prints, how it ends, and what is kept from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reasoner.errors import ConfigError, ToolError, UserError
from reasoner.sandbox.base import SandboxError
from reasoner.sandbox.running import Running
from reasoner_environments.python import SILENT, python


@contextmanager
def opened(**options: Any) -> Iterator[Any]:
    tool = python.opened(python.check_options({"timeout_s": 3.0, **options}))
    try:
        yield tool
    finally:
        tool.close()  # type: ignore[attr-defined]


ENDS = [
    ("print(6 * 7)", "42"),
    ("x = 3", SILENT),
    ("print('a'); 1 / 0", "ZeroDivisionError: division by zero"),
    ("def f(:", "SyntaxError: invalid syntax"),
    ("import os; os.write(1, b'\\xff\\xfe')", "\N{REPLACEMENT CHARACTER}" * 2),
    ("print('a' * 9000)", "a" * 2000 + "\n... (6200 characters left out) ...\n" + "a" * 800),
    ("print('a' * 9000); print(b)", "NameError: name 'b' is not defined"),
    ("print(input())", "EOFError: EOF when reading a line"),
    ("print(open('/etc/hostname').read())", "FileNotFoundError"),
    ("import reasoner", "ModuleNotFoundError"),
    ("x = bytearray(10**10)", "MemoryError"),
    ("import os; os._exit(4)", "The program ended with exit status 4."),
    ("print('a' * 3_000_000)", "it printed more than 1048576 bytes."),
]


@pytest.mark.parametrize(("code", "end"), ENDS)
def test_a_program_prints_or_says_how_it_ended(code: str, end: str) -> None:
    with opened() as tool:
        message = tool(code=code)
    assert end in message
    assert len(message) < 4000


def test_a_program_ends_in_time_and_leaves_no_variables() -> None:
    with opened(timeout_s=0.5) as tool:
        assert tool(code="x = 3\nprint('begun', flush=True)\nwhile True: pass").splitlines() == [
            "begun",
            "(The program was ended after 0.5 seconds.)",
        ]
        assert "NameError: name 'x' is not defined" in tool(code="print(x)")


def test_an_interpreter_keeps_variables_from_call_to_call() -> None:
    with opened(keep_variables=True) as tool:
        for code, end in ENDS[:-2]:
            assert end in tool(code=code), code
        assert tool(code="print(x)") == "3"
        assert tool(code="import sys; y = 4; print('a', end=''); sys.exit()") == "a"
        assert tool(code="print(x + y)") == "7"
        assert tool(code="import os; os.write(1, b'late')\nos._exit(4)").splitlines() == [
            "late",
            "(The program ended with exit status 4. The variables are lost.)",
        ]
        assert "NameError: name 'x' is not defined" in tool(code="print(x)")


def test_an_interpreter_that_hangs_or_floods_is_replaced() -> None:
    with opened(keep_variables=True, timeout_s=0.5) as tool:
        message = tool(code="x = 3\nprint('begun', flush=True)\nwhile True: pass")
        assert message.splitlines() == ["begun", "(The program was ended after 0.5 seconds. The variables are lost.)"]
        flooded = "The program was ended: it printed more than 1048576 bytes. The variables are lost."
        assert flooded in tool(code="print('a' * 3_000_000)")
        assert flooded in tool(code="for _ in range(400): print('a' * 3_000)")
        assert tool(code="print('again')") == "again"


def test_each_program_of_an_interpreter_has_the_whole_limit_on_output() -> None:
    with opened(keep_variables=True) as tool:
        tool(code="x = 3")
        for _ in range(3):
            assert "left out" in tool(code="import sys; print('a' * 500_000); print('b' * 500_000, file=sys.stderr)")
        assert tool(code="print(x)") == "3"
        assert "it printed more than 1048576 bytes" in tool(code="print('a' * 1_048_577)")
        assert "NameError: name 'x' is not defined" in tool(code="print(x)")


def test_the_time_limit_is_that_of_a_program_and_not_of_each_line() -> None:
    with opened(keep_variables=True, timeout_s=0.5) as tool:
        message = tool(code="import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)")
        assert message.startswith("0\n")
        assert message.endswith("(The program was ended after 0.5 seconds. The variables are lost.)")


def test_an_interpreter_whose_sandbox_failed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(keep_variables=True) as tool:
        tool(code="x = 3")
        with monkeypatch.context() as patch:
            patch.setattr(Running, "receive_line", broken)
            with pytest.raises(SandboxError, match="the sandbox broke"):
                tool(code="print('left over')")
        assert "NameError: name 'x' is not defined" in tool(code="print(x)")


def broken(*_: object) -> None:
    raise SandboxError("the sandbox broke")


def test_options_and_what_the_policy_is_told() -> None:
    assert python.schema["required"] == ["code"]
    assert list(python.schema["properties"]) == ["code"]
    assert python.description == "Run a Python program and return what it prints."
    assert python.is_stateful({"keep_variables": True})
    assert not python.is_stateful({})
    assert python.ready({}).startswith("sandbox: ")
    with pytest.raises(ConfigError, match="tool 'python', option 'timeout_s'"):
        python.check_options({"timeout_s": 31.0})
    with pytest.raises(
        UserError, match="tool 'python' cannot work here: sandbox 'none' runs generated programs as you"
    ):
        python.ready({"sandbox": "none"})
    with opened() as tool, pytest.raises(ToolError, match="the program has 1048577 characters"):
        tool(code="#" * (2**20 + 1))
