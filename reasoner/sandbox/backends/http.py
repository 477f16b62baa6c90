"""A service that runs programs: SandboxFusion (`.../run_code`) or Piston (`.../execute`), by the end of its address.

What the service isolates is its own affair; here only its answers are read, and nothing in them is believed but what
the program printed and how it ended. Python programs only, and no live pipes.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from reasoner.io.http_json import RemoteError, Service, checked_url, without_query
from reasoner.sandbox.base import End, Limits, Outcome, SandboxError, Session, checked_paths
from reasoner.sandbox.interpreter import ISOLATED, PYTHON

ATTEMPTS = 4
"""requests at most for one program"""
OVERHEAD_S = 30.0
"""seconds beside the program's own in which the service must answer: its queue, its start of the program"""


@dataclass(frozen=True, slots=True)
class ProgramRequest:
    """A Python program as services take it."""

    main: str
    """path of the file to run"""
    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    stdin: str
    limits: Limits


class Dialect(Protocol):
    """How a kind of service is spoken to."""

    name: str

    def request(self, job: ProgramRequest) -> dict[str, Any]:
        """The body of a request."""

    def outcome(self, answer: object) -> Outcome:
        """What an answer means.

        Raises:
            ValueError: it is not of the expected form.
            SandboxError: the service says that it failed.
        """


class HttpSandbox:
    """A `Sandbox` behind an address."""

    interactive = False

    def __init__(self, url: str) -> None:
        """Raises ValueError for an address that is none, or of a service that is not known."""
        self._url, self._dialect = checked_url(url), _dialect(url)
        self.name = f"{self._dialect.name} at {without_query(url)}"

    def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Outcome:
        checked_paths(files)
        job = _job(program, files, stdin, limits)
        service = Service(self._url, {}, (), ATTEMPTS, limits.wall_s + OVERHEAD_S)
        try:
            answer = service.post(self._dialect.request(job))
        except RemoteError as error:
            raise SandboxError(str(error)) from None
        try:
            outcome = self._dialect.outcome(answer)
        except ValueError:
            raise SandboxError(str(service.error(f"gave no answer as {self._dialect.name} does", answer))) from None
        return _truncate(outcome, limits.output_bytes)

    def open(
        self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits
    ) -> AbstractContextManager[Session]:
        raise SandboxError(f"{self.name} runs programs to their end: no input can follow their output")


class _FusionRun(BaseModel, strict=True):
    status: str
    execution_time: float | int | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class _FusionAnswer(BaseModel, strict=True):
    status: str
    message: str = ""
    run_result: _FusionRun | None = None


class SandboxFusion:
    """`POST /run_code`: the limits that it knows are wall-clock seconds and memory."""

    name = "SandboxFusion"

    def request(self, job: ProgramRequest) -> dict[str, Any]:
        if job.arguments:
            raise ValueError(f"{self.name} passes no arguments to a program, got {list(job.arguments)}")
        return {
            "language": "python",
            "code": _text(job.files[job.main]),
            "stdin": job.stdin,
            "files": {name: _base64(data) for name, data in job.files.items() if name != job.main},
            "run_timeout": job.limits.wall_s,
            "memory_limit_MB": job.limits.memory_mb,
        }

    def outcome(self, answer: object) -> Outcome:
        read = _FusionAnswer.model_validate(answer)
        run = read.run_result
        if read.status not in ("Success", "Failed"):
            raise SandboxError(f"{self.name} failed: {read.message or read.status}")
        if run is None:
            raise ValueError("no run_result")
        out, err = (run.stdout or "").encode(), (run.stderr or "").encode()
        seconds = float(run.execution_time or 0.0)
        if run.status == "TimeLimitExceeded":
            return Outcome("timeout", None, out, err, seconds)
        if run.status != "Finished" or run.return_code is None:
            raise SandboxError(f"{self.name} failed: {run.status} {run.stderr}")
        end: End = "exit" if run.return_code >= 0 else "signal"
        return Outcome(end, abs(run.return_code), out, err, seconds)


class _PistonRun(BaseModel, strict=True):
    stdout: str
    stderr: str
    code: int | None = None
    signal: str | None = None
    status: str | None = None
    message: str | None = None
    wall_time: float | int | None = None


class _PistonAnswer(BaseModel, strict=True):
    run: _PistonRun


class Piston:
    """`POST /api/v2/execute`: wall-clock and CPU milliseconds, memory in bytes; more than it allows is an error."""

    name = "Piston"
    _ends: Mapping[str, End] = {"TO": "timeout", "OL": "output", "EL": "output"}

    def request(self, job: ProgramRequest) -> dict[str, Any]:
        others = [name for name in job.files if name != job.main]
        main = {"name": job.main, "content": _text(job.files[job.main]), "encoding": "utf8"}
        return {
            "language": "python",
            "version": "3.x",
            "files": [
                main,
                *({"name": name, "content": _base64(job.files[name]), "encoding": "base64"} for name in others),
            ],
            "args": list(job.arguments),
            "stdin": job.stdin,
            "run_timeout": round(job.limits.wall_s * 1000),
            "run_cpu_time": round(job.limits.cpu_s * 1000),
            "run_memory_limit": job.limits.memory_mb * 2**20,
        }

    def outcome(self, answer: object) -> Outcome:
        run = _PistonAnswer.model_validate(answer).run
        out, err, seconds = run.stdout.encode(), run.stderr.encode(), float(run.wall_time or 0.0) / 1000
        if run.status == "XX":
            raise SandboxError(f"{self.name} failed: {run.message}")
        if (limit := self._ends.get(run.status or "")) is not None:
            return Outcome(limit, None, out, err, seconds)
        if run.signal:
            if run.signal not in signal.Signals.__members__:
                raise ValueError("no such signal")
            return Outcome("signal", signal.Signals[run.signal].value, out, err, seconds)
        if run.code is None:
            raise ValueError("neither code nor signal")
        return Outcome("exit", run.code, out, err, seconds)


_DIALECTS: Mapping[str, type[SandboxFusion] | type[Piston]] = {"run_code": SandboxFusion, "execute": Piston}
"""last part of the address -> service"""


def _dialect(url: str) -> Dialect:
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    if name not in _DIALECTS:
        ends = " or ".join(f".../{end} ({dialect.name})" for end, dialect in _DIALECTS.items())
        raise ValueError(f"the address of a service that runs programs ends in {ends}, got {without_query(url)}")
    return _DIALECTS[name]()


def _job(program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> ProgramRequest:
    """Raises ValueError unless the program is `[PYTHON, *ISOLATED, FILE, *arguments]`."""
    before = [PYTHON, *ISOLATED]
    main, *arguments = program[len(before) :] or [""]
    if list(program[: len(before)]) != before or main not in files:
        raise ValueError(f"a service runs `{' '.join(before)} FILE`, with a file that is given, got {list(program)}")
    return ProgramRequest(main, tuple(arguments), files, _text(stdin), limits)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SandboxError("a service takes a program and its input as UTF-8 text, got other bytes") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _truncate(outcome: Outcome, most: int) -> Outcome:
    if len(outcome.stdout) + len(outcome.stderr) <= most:
        return outcome
    out = outcome.stdout[:most]
    return Outcome("output", None, out, outcome.stderr[: most - len(out)], outcome.seconds)
