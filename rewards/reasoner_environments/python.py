"""The tool `python`: runs a program of the policy in the sandbox that the `code` reward uses."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from reasoner import (
    ISOLATED,
    PYTHON,
    Limits,
    Outcome,
    ReasonerError,
    Sandbox,
    Session,
    ToolError,
    UserError,
    permitted_sandbox,
    tool,
)
from reasoner_environments import inside

MAX_CODE = 2**20
"""characters of a program"""
LONGEST_S = 24 * 3600.0
"""seconds that an interpreter lives at most: as long as its response takes"""
HEAD, TAIL = 2000, 800
"""characters from the beginning and the end of what a program printed that are shown: its end says how it ended"""
OUTPUT_BYTES = 2**20
"""bytes that a program may print"""
SILENT = "(the program printed nothing: use print)"
_COMMAND = [PYTHON, *ISOLATED, "program.py"]


class PythonOptions(BaseModel):
    """Options of `python`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_variables: bool = False
    """whether one interpreter serves all calls of a response, so that a program finds the variables of those before it
    """
    timeout_s: Annotated[float, Field(gt=0.0, le=30.0)] = 5.0
    """wall seconds per program; one that takes longer is ended, and with it its variables"""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """MiB of memory that a program may use"""
    sandbox: str = "auto"
    """a sandbox's name (`reasoner doctor`) or the address of a service; `auto`: the best that works here"""


class Python:
    """Run a Python program and return what it prints.

    Args:
        code: the program
    """

    def __init__(self, *, options: PythonOptions) -> None:
        self._options = options
        self._interpreter: _Interpreter | None = None

    def __call__(self, code: str) -> str:
        if len(code) > MAX_CODE:
            raise ToolError(f"the program has {len(code)} characters, and may have {MAX_CODE}")
        if not self._options.keep_variables:
            limits = _limits(self._options, self._options.timeout_s)
            files = {"program.py": code.encode("utf-8", "replace")}
            return _result(_sandbox(self._options.sandbox).run(_COMMAND, files, b"", limits), self._options)
        if self._interpreter is None:
            self._interpreter = _Interpreter(self._options)
        ended = True  # also when it raises: what is left of this program must not reach the next one
        try:
            text, ended = self._interpreter.run(code)
        finally:
            if ended:
                self.close()
        return text

    def close(self) -> None:
        """End the interpreter."""
        interpreter, self._interpreter = self._interpreter, None
        if interpreter is not None:
            interpreter.close()


class _Interpreter:
    """A running `inside/interpreter.py`."""

    def __init__(self, options: PythonOptions) -> None:
        self._options = options
        self._stack = ExitStack()
        program = Path(inside.__file__).with_name("interpreter.py").read_bytes()
        opened = _sandbox(options.sandbox).open(_COMMAND, {"program.py": program}, _limits(options, LONGEST_S))
        self._session: Session = self._stack.enter_context(opened)

    def run(self, code: str) -> tuple[str, bool]:
        """What a piece prints, and whether the interpreter has ended with it."""
        ends = time.monotonic() + self._options.timeout_s
        mark = secrets.token_hex(16).encode()
        self._session.forget()  # each program has the whole limit on output, whatever those before it printed
        self._session.send(json.dumps({"code": code, "mark": mark.decode()}).encode() + b"\n")
        printed: list[bytes] = []
        while (line := self._session.receive_line(max(0.0, ends - time.monotonic()))) is not None:
            if line.rstrip(b"\n") == mark:
                return _shown(b"".join(printed).removesuffix(b"\n")), False
            printed.append(line)
        why = _why_ended(self._session.outcome(), self._options)
        lost = "The variables are lost."
        return "\n".join(filter(None, (_text(b"".join(printed)), f"({why} {lost})"))), True

    def close(self) -> None:
        self._stack.close()


def _limits(options: PythonOptions, wall_s: float) -> Limits:
    return Limits(wall_s=wall_s, cpu_s=wall_s, memory_mb=options.memory_mb, output_bytes=OUTPUT_BYTES)


def _result(outcome: Outcome, options: PythonOptions) -> str:
    """What a program printed, and how it ended where that was not well."""
    if outcome.ok:
        return _shown(outcome.stdout)
    said = outcome.stderr.decode("utf-8", "replace").rstrip()[-TAIL:]
    return "\n".join(filter(None, (_text(outcome.stdout), said or f"({_why_ended(outcome, options)})")))


def _why_ended(outcome: Outcome, options: PythonOptions) -> str:
    match outcome.end:
        case "exit":
            return f"The program ended with exit status {outcome.code}."
        case "signal":
            return f"The program was ended by signal {outcome.code}."
        case "timeout" | "answer" | "cpu":
            return f"The program was ended after {options.timeout_s:g} seconds."
        case "memory":
            return f"The program was ended: it used more than {options.memory_mb} MB of memory."
        case "output":
            return f"The program was ended: it printed more than {OUTPUT_BYTES} bytes."
        case end:
            return f"The program was ended: it used more {end} than allowed."


def _shown(printed: bytes) -> str:
    return _text(printed) or SILENT


def _text(data: bytes) -> str:
    text = data.decode("utf-8", "replace").rstrip()
    more = len(text) - HEAD - TAIL
    return text if more <= 0 else f"{text[:HEAD]}\n... ({more} characters left out) ...\n{text[-TAIL:]}"


def _preflight(options: PythonOptions) -> str:
    sandbox = permitted_sandbox(options.sandbox)
    if options.keep_variables and not sandbox.interactive:
        raise UserError(
            f"keep_variables = true needs a sandbox on this machine; {sandbox.name} runs whole programs only"
        )
    return f"sandbox: {sandbox.name}"


def _prepare() -> None:
    """Try the sandboxes once, before workers are forked: a worker of a response would do it again."""
    with suppress(ReasonerError):
        _sandbox("auto")


@cache
def _sandbox(choice: str) -> Sandbox:
    """Found once per process: it is tried before it is used."""
    return permitted_sandbox(choice)


# Above the longest `timeout_s` of a program, so that one that is too slow has a result.
python = tool(
    "python",
    timeout_s=45.0,
    keeps_state=lambda options: options.keep_variables,
    prepare=_prepare,
    preflight=_preflight,
)(Python)
