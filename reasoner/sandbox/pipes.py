"""Small things that the local sandboxes share: pipes, a gate, and the meaning of an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import IO

from reasoner.sandbox.base import End

GATE = ("/bin/sh", "-c", 'read -r go && exec "$@"', "sh")
"""before a command: it starts only when `open_gate` says so, so that limits can be set on its process first"""


def open_gate(stdin: int) -> None:
    """Let the command behind a gate start; the line is gone from its input then."""
    with contextlib.suppress(BrokenPipeError):
        os.write(stdin, b"\n")


def taken(*pipes: IO[bytes] | None) -> list[int]:
    """Pipes as plain descriptors, which are the caller's to close; the files are closed."""
    descriptors = []
    for pipe in pipes:
        assert pipe is not None
        with pipe:
            descriptors.append(os.dup(pipe.fileno()))
    return descriptors


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
