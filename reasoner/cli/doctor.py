"""`reasoner doctor`: what works here, and what to install for what."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from reasoner.checks import State
from reasoner.cli.console import out
from reasoner.doctor import examine

_STYLES: dict[State, str] = {"ok": "green", "missing": "yellow", "broken": "bold red"}


def doctor() -> None:
    """What is installed and usable here, and what to install for what."""
    table = Table.grid(padding=(0, 2))
    for check in examine():
        text = check.detail if not check.advice else f"{check.detail}\n-> {check.advice}"
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, Text(text, overflow="fold"))
    out().print(table)
