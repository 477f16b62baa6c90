"""Small things that the local sandboxes share: pipes, a gate, and the meaning of an exit status."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import IO

from reasoner.sandbox.base import End, SandboxError

GATE = ("/bin/sh", "-c", 'echo && read -r go && exec "$@"', "sh")
"""before a command: it says that it is there (`await_gate`) and starts the command only when `open_gate` says so, so
that limits can be set on its process first"""
GATE_S = 60.0
"""seconds for a gate to be there"""


class Pipes:
    """This side's ends of a program's three pipes, as plain descriptors."""

    def __init__(self, stdin: IO[bytes] | None, stdout: IO[bytes] | None, stderr: IO[bytes] | None) -> None:
        """Take them over; the files are closed."""
        self.stdin, self.stdout, self.stderr = map(_buffered_bytes, (stdin, stdout, stderr))
        self.outputs = (self.stdout, self.stderr)

    def close_input(self) -> None:
        """Let the program read the end of its input; safe to call twice."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        """Close all three."""
        self.close_input()
        for pipe in self.outputs:
            os.close(pipe)


def await_gate(pipes: Pipes) -> None:
    """Wait until a gate is there, or its process has ended; its line is gone from the output then.

    Until then the process may be a copy of this one (a fork that has not yet replaced itself), with all of its memory:
    no limit for a program may be set on it, nor what it uses be held against the program.

    Raises SandboxError: it was not there within `GATE_S`.
    """
    waiter = select.poll()
    waiter.register(pipes.stdout, select.POLLIN)
    if not waiter.poll(GATE_S * 1000):
        raise SandboxError(f"a program was not started within {GATE_S:g} seconds")
    os.read(pipes.stdout, 1)


def open_gate(pipes: Pipes) -> None:
    """Let the command behind a gate start; the line is gone from its input then."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipes.stdin, b"\n")


def read_all(pipe: int) -> bytes:
    """What is in a pipe up to its end, or as far as it goes without waiting if it is set not to wait."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(pipe, 2**16):
            data += chunk
    return data


def ending(code: int) -> tuple[End, int]:
    """How a program ended, from its exit code as in `subprocess`: negative for a signal."""
    if code >= 0:
        return "exit", code
    return ("cpu" if -code == signal.SIGXCPU else "signal"), -code


def _buffered_bytes(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    with pipe:
        return os.dup(pipe.fileno())
