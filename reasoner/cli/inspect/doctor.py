"""`reasoner doctor`: what works here, and what to install for what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from reasoner.cli.console import out
from reasoner.doctor.check import Diagnosis, FindingState
from reasoner.doctor.environment import examine

_STYLES: dict[FindingState, str] = {"ok": "green", "missing": "yellow", "broken": "bold red"}


def doctor() -> None:
    """Check what is installed and works on this machine, and say what to install for the rest."""
    table = Table.grid(padding=(0, 2))
    for check in _merge_package_rows(list(examine())):
        text = check.detail if not check.advice else f"{check.detail}\n-> {check.advice}"
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, Text(text, overflow="fold"))
    out().print(table)


def _merge_package_rows(checks: Sequence[Diagnosis]) -> Iterator[Diagnosis]:
    """With the packages that are there and have nothing but a version to say in one row, where the first of them is."""
    packages = [check for check in checks if check.state == "ok" and re.fullmatch(r"\d[\w.+-]*", check.detail)]
    for check in checks:
        if check not in packages:
            yield check
        elif check is packages[0]:
            yield Diagnosis("packages", "ok", ", ".join(f"{package.name} {package.detail}" for package in packages))
