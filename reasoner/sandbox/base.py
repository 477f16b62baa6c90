"""What a sandbox is: a program, its files and its input go in, an outcome comes out.

The sandboxed side only ever answers what a program prints for an input. Whoever calls compares: expected values and
verdicts never enter the sandbox, so that nothing in it can read, patch or imitate them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from reasoner.errors import RunError

FILE_BYTES = 4096
End = Literal["exit", "signal", "timeout", "answer", "cpu", "memory", "processes", "output", "scratch"]
"""How a program ended: by itself (exit status, signal), or killed by the sandbox at the limit that is named; `answer`:
the time for a line that its caller waited for (`Session.receive_line`)."""


class SandboxError(RunError):
    """The sandbox did not do its work: the program is not to blame, and nothing is known about it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Everything it started counts with it, unless it says otherwise."""

    wall_s: float = 10.0
    """seconds from its start; at the deadline everything that it started is killed"""
    cpu_s: float = 10.0
    """CPU seconds"""
    memory_mb: int = 512
    """MiB of memory; also the address space of each of its processes"""
    processes: int = 16
    """processes and threads at one time"""
    open_files: int = 64
    """open files of each process"""
    output_bytes: int = 2**20
    """bytes on standard output and standard error together"""
    scratch_mb: int = 64
    """MiB in the scratch folder, where a file or folder counts `FILE_BYTES` at least"""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} of a sandbox must be a number above 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended, and what it wrote until then."""

    end: End
    code: int | None
    """exit status, or number of the signal; None: killed by the sandbox"""
    stdout: bytes
    stderr: bytes
    """both cut at `output_bytes`"""
    seconds: float
    """wall-clock seconds from its start to its end"""

    @property
    def ok(self) -> bool:
        """It ended by itself with exit status 0."""
        return self.end == "exit" and self.code == 0


class Session(Protocol):
    """A running program with live pipes. To be used by one thread at a time."""

    def send(self, data: bytes) -> None:
        """Hand bytes to its standard input. What a program does not read before its end is dropped."""

    def close_input(self) -> None:
        """Let it read the end of its input."""

    def receive_line(self, timeout_s: float = math.inf) -> bytes | None:
        """The next line that it prints, with its line end; None when it has ended, at a limit too, and all was read.

        Args:
            timeout_s: seconds in which the line must come; then the program is killed, with the end `answer`.
        """

    def forget(self) -> None:
        """Drop what `receive_line` took: from here on the program may print `output_bytes` again."""

    def outcome(self) -> Outcome:
        """Close its input, wait for its end and say how that was; what `receive_line` took is in it too, unless
        it was forgotten.

        Raises:
            SandboxError: the sandbox failed.
        """


class Sandbox(Protocol):
    """Runs programs. Every method may be called from several threads at a time."""

    @property
    def name(self) -> str:
        """What it is, with its version: `bubblewrap 0.8.0`."""

    @property
    def interactive(self) -> bool:
        """Whether it has `open`."""

    def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Outcome:
        """Run a program to its end. Nothing that the program does raises.

        Args:
            program: command and arguments as seen from inside: `[PYTHON, *ISOLATED, "main.py"]`.
            files: contents by relative path in a new scratch folder, the working directory.
            stdin: its whole standard input.

        Raises:
            ValueError: a path of `files` is absolute or leaves the folder.
            SandboxError: the sandbox failed.
        """

    def open(
        self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits
    ) -> AbstractContextManager[Session]:
        """Start a program and talk to it. It is killed when the context is left, or the thread that entered it ends.

        Raises:
            ValueError: a path of `files` is absolute or leaves the folder.
            SandboxError: the sandbox failed, or has no `open`.
        """


def checked_paths(files: Mapping[str, bytes]) -> None:
    """Raise ValueError for a path that could end up outside of the scratch folder."""
    for name in files:
        path = PurePosixPath(name)
        if not name or "\0" in name or path.is_absolute() or ".." in path.parts or str(path) in ("", "."):
            raise ValueError(f"a file of a sandbox needs a relative path without `..`, got {name!r}")
