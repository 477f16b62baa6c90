"""Where commands print, and how errors look."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.text import Text

from reasoner.io.redaction import redact
from reasoner.io.terminal import SafeConsole


def out() -> SafeConsole:
    """Standard output. Not a terminal: no colours; rich honours NO_COLOR and COLUMNS."""
    return SafeConsole()


def print_preflights(lines: Mapping[str, str]) -> None:
    """What reward sources say of this machine, a line each."""
    for source, line in lines.items():
        out().print(Text(f"{source}: {line}"))


def print_samples(samples: Sequence[str]) -> None:
    """Prompts as the policy sees them, each after an empty line."""
    for sample in samples:
        out().print()
        out().print(Text(sample), soft_wrap=True)


def warn(message: str) -> None:
    """What does not stop a command but is worth knowing, on standard error."""
    console = SafeConsole(sys.stderr)
    console.print(Text("warning:", style="bold yellow"), Text(redact(message)), soft_wrap=True)


def complain(message: object) -> None:
    """An error on standard error, unwrapped: paths and commands in it are there to be copied."""
    console = SafeConsole(sys.stderr)
    console.print(Text("error:", style="bold red"), Text(redact(str(message))), soft_wrap=True)
