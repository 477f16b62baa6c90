"""How a worker makes a call: with copies and random generators of the call's own, and with failures as words.

A call must not change what the next call sees, of its own source or of another.
"""

from __future__ import annotations

import decimal
import os
import random
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any

from reasoner.io.redaction import redact_end, redact_start
from reasoner.workers.lines import CREATED
from reasoner.workers.memory_files import MemoryFiles

MAX_MESSAGE = 2000
"""characters of an error message that are kept"""
MOST_FRAMES = 4
"""of a traceback"""
MAX_TRACE = 2000
"""characters"""


def open_channel(channel: socket.socket) -> MemoryFiles:
    """Guard the channel of a worker: what the call creates in memory is told, and a child that the call forks cannot
    write where the worker answers."""
    os.register_at_fork(after_in_child=lambda: _shut(channel))
    return MemoryFiles(lambda path: channel.sendall(CREATED + path.replace(b"\n", b"?") + b"\n"))


def prepare_call() -> None:
    """A decimal context of the call's own, and new seeds for the random generators that everybody shares: a call that
    sets them decides about itself only."""
    decimal.setcontext(decimal.getcontext().copy())
    random.seed(int.from_bytes(os.urandom(8)))  # without an argument it reads 2500 bytes, which takes longer
    if generator := sys.modules.get("numpy.random"):
        generator.seed(random.getrandbits(32))


def copied(value: Any) -> Any:
    """`value` with every dictionary and list in it copied, at any depth that JSON was read from."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def flush() -> None:
    """What the call printed is for its own log entry."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # whatever the call has put there, or closed
            stream.flush()


def last_lines(error: BaseException, own_modules: tuple[str, ...]) -> str:
    """The end of the traceback: the last frames, and the error.

    Args:
        ours: files between the worker and the call, which nobody needs to read.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in own_modules]
    lines = traceback.format_list(frames[-MOST_FRAMES:])
    return redact_end(f"{''.join(lines)}{type(error).__name__}: {redact_start(str(error), MAX_MESSAGE)}", MAX_TRACE)


def described(error: BaseException) -> str:
    """`ValueError: what it said (file.py:3), attempt 2`."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {redact_start(str(error), MAX_MESSAGE)}{where}{redact_start(notes, MAX_MESSAGE)}"


def _shut(channel: socket.socket) -> None:
    """In a child that a call forked."""
    descriptor = channel.detach()
    if descriptor >= 0:
        os.close(descriptor)
