"""How far a command is, on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reasoner.io.terminal import SafeConsole

QUIET_S = 10.0
"""seconds between lines"""

StartCounter = Callable[[str, int], Callable[[int], None]]
"""`(what, how many) -> (done) -> None`"""


@contextmanager
def counting() -> Iterator[StartCounter]:
    """Yields what starts a count; the bars vanish at the end."""
    console = SafeConsole(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _lines
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def start(what: str, total: int) -> Callable[[int], None]:
            bar = bars.add_task(what, total=total)
            return lambda done: bars.update(bar, completed=done)

        yield start


def _lines(what: str, total: int) -> Callable[[int], None]:
    last_report = time.monotonic()

    def report(done: int) -> None:
        nonlocal last_report
        if time.monotonic() - last_report >= QUIET_S:
            last_report = time.monotonic()
            print(f"  {what} {done}/{total}", file=sys.stderr, flush=True)  # noqa: T201

    return report
