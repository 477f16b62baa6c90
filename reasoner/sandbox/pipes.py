"""Small things that the local sandboxes share: pipes, and the meaning of an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from reasoner.sandbox.base import End


def detached(process: subprocess.Popen[bytes]) -> list[int]:
    """Its ends of its three pipes as plain descriptors, which are the caller's to close."""
    pipes = [pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe is not None]
    descriptors = [os.dup(pipe.fileno()) for pipe in pipes]
    for pipe in pipes:
        pipe.close()
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
