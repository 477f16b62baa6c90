#!/usr/bin/env python3
"""Tries the shortcuts of `reasoner rewards attack` on all built-in reward sources, as tests/integration/test_attack.py
does, and writes what they paid to docs/validation/shortcuts.md (a table of docs/reward-hacking.md).

    .venv/bin/python scripts/try_shortcuts.py && .venv/bin/python scripts/document.py

The exit code is 1 when something was paid in full that must not be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from reasoner.testing.attack import AttackReport
from tests.integration.test_attack import attacked

TABLE = Path(__file__).resolve().parents[1] / "docs" / "validation" / "shortcuts.md"


def row(name: str, report: AttackReport) -> str:
    """A line of the table."""
    by_nature = {payment.attack.name for payment in report.payments if payment.in_full} - {
        payment.attack.name for payment in report.wrong
    }
    part = [payment.component.value or 0.0 for payment in report.payments if not payment.in_full]
    cells = [
        name,
        report.aspect,
        f"{report.problems}",
        f"{len(report.payments)}",
        f"{len(report.wrong)}",
        f"{max(part, default=0.0):.2g}",
        f"{len(by_nature)} of {len(report.by_attack)}",
    ]
    return f"| {' | '.join(cells)} |"


def lines(reports: dict[str, AttackReport]) -> Iterator[str]:
    """The page."""
    tried = sum(len(report.payments) for report in reports.values())
    yield f"<!-- written by scripts/try_shortcuts.py: {tried} responses to {len(reports)} sources -->"
    yield "| source | rewards | problems | responses | wrongly paid | highest other pay | kinds paid by its nature |"
    yield "|---|---|---|---|---|---|---|"
    for name, report in reports.items():
        yield row(name, report)


def main() -> None:
    """Try them and write the table."""
    reports = dict(attacked())
    TABLE.write_text("\n".join(lines(reports)) + "\n", encoding="utf-8")
    sys.exit(any(report.wrong for report in reports.values()))


if __name__ == "__main__":
    main()
