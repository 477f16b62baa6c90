#!/usr/bin/env python3
"""Writes the tables of the documentation that code knows: methods, validation (docs/gro.md), metrics (docs/metrics.md).

A test holds that they are up to date.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from reasoner import hookspecs
from reasoner.gro import describe
from reasoner.gro.presets import PRESETS
from reasoner.reporting.metrics import METRICS

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(<!-- (?P<name>\w+): scripts/document\.py -->\n).*?(<!-- end -->)", re.DOTALL)


def methods() -> str:
    """One row per term of every preset."""
    lines = [
        "| preset | weight, term | source | unit | credit | evidence | anchor | link | aggregation | KL | paper |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        for index, (term_name, weighted) in enumerate(preset.terms.items()):
            choices = describe.choices_of(weighted.term)
            schedule = describe.schedule(weighted.schedule)
            own = "" if len(preset.terms) == 1 else f"{weighted.weight:g} `{term_name}`"
            cells = [
                f"`{name}`" if index == 0 else "",
                own + (f" ({schedule})" if schedule else ""),
                choices["source"],
                weighted.term.evidence.unit,
                *(choices[key] for key in ("credit", "evidence", "anchor", "link", "aggregation")),
                choices.get("KL", ""),
                preset.paper if index == 0 else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """One row per metric."""
    rows = [f"| `{metric.name}` | {metric.unit} | {metric.meaning.replace('|', chr(92) + '|')} |" for metric in METRICS]
    return "\n".join(["| name | unit | meaning |", "|---|---|---|", *rows]) + "\n"


def validation() -> str:
    """What `scripts/validate_gro` found."""
    return (DOCS / "validation" / "gro.md").read_text(encoding="utf-8").partition("\n")[2]


def hooks() -> str:
    """One row per hook."""
    rows = []
    for name, function in vars(hookspecs).items():
        if hasattr(function, f"{hookspecs.PROJECT}_spec"):
            first = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
            parameters = ", ".join(inspect.signature(function).parameters)
            rows.append(f"| `{name}({parameters})` | {first} |")
    return "\n".join(["| hook | when, and what for |", "|---|---|", *rows]) + "\n"


TABLES = {"methods": methods, "metrics": metrics, "validation": validation, "hooks": hooks}


def written(text: str) -> str:
    """The page with its tables as they should be."""
    return BLOCK.sub(lambda found: found[1] + TABLES[found["name"]]() + found[3], text)


def main() -> None:
    """Write every page that has such a table."""
    for page in DOCS.glob("*.md"):
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
