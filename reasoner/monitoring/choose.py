"""Which view a run gets: live on a terminal, plain lines anywhere else, and always `log.txt`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from reasoner.io.safe_text import printable
from reasoner.io.terminal import SafeConsole
from reasoner.monitoring.live import LiveView
from reasoner.monitoring.plain import PlainView
from reasoner.monitoring.view import Views


def open_view(stream: TextIO, log: Callable[[str], None], ranks: int = 1) -> Views:
    """The view of a run of `ranks` ranks on `stream`, which also writes everything to `log` as plain text.

    A terminal that cannot move its cursor (TERM=dumb) gets plain lines too.
    """
    console = SafeConsole(stream)
    encoding = stream.encoding or "ascii"
    ascii_only = not encoding.lower().startswith("utf")
    if stream.isatty() and not console.is_dumb_terminal:
        return Views(LiveView(console, ascii_only), PlainView(log, ascii_only=False), ranks=ranks)
    return Views(PlainView(_writer(stream, encoding), ascii_only), PlainView(log, ascii_only=False), ranks=ranks)


def _writer(stream: TextIO, encoding: str) -> Callable[[str], None]:
    """Writes to the stream for as long as somebody reads it. A run does not fail because its reader has: the log has
    everything, and a program that started the run and is gone has it end by a signal (`reasoner.processes.caller`)."""
    gone = False

    def write(text: str) -> None:
        nonlocal gone
        if gone:
            return
        try:
            stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except BrokenPipeError:
            gone = True

    return write
