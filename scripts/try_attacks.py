#!/usr/bin/env python3
"""Runs the programs of tests/integration/code_attacks.py, which try to be judged right without being right, in every
sandbox that works here, and those of sandbox_world.py and sandbox_hoards.py, which try to get out of it or to hold more
than they may. Writes what came of it to docs/validation/attacks.md (a table of docs/code.md).

    .venv/bin/python scripts/try_attacks.py && .venv/bin/python scripts/document.py

The exit code is 1 when one passed a test, something of it was left, or a sandbox did not keep it in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from reasoner.sandbox import Limits
from reasoner.sandbox.choose import UNSANDBOXED, open_sandbox
from reasoner.sandbox.permission import permit_unsandboxed
from tests.integration.code_attacks import ATTACKS, Attack, judged, working
from tests.integration.sandbox_hoards import DISK, LIMITS, MEMORY, hoarded
from tests.integration.sandbox_world import CANARY_ATTACKS, attack, world

TABLE = Path(__file__).resolve().parents[1] / "docs" / "validation" / "attacks.md"


def tried(attack: Attack, sandbox: str) -> tuple[str, str]:
    """What the attack won, and the note about it."""
    if sandbox == UNSANDBOXED and attack.alone:
        return "not tried", ""
    try:
        score = judged(attack, sandbox)
    except Exception as error:  # a failed call abstains
        return "no score", f"{type(error).__name__}: {error}"
    left = psutil.Process().children(recursive=True)
    value = f"{score.value:g}" + (f", {len(left)} processes left" if left else "")
    return value, score.note.partition(": ")[2] if score.note.startswith("test ") else score.note


def row(attacks: Sequence[Attack], sandboxes: Sequence[str]) -> tuple[str, bool]:
    """A line of the table, and whether nothing was won: the same program on all its routes."""
    cells, notes = [], []
    for sandbox in sandboxes:
        results = [tried(attack, sandbox) for attack in attacks]
        cells.append(", ".join(dict.fromkeys(value for value, _ in results)))
        notes += [note for _, note in results]
    note = notes[0].replace("|", "\\|").replace("`", "'").replace("<", "&lt;")[:110]
    held = all(set(cell.split(", ")) <= {"0", "no score", "not tried"} for cell in cells)
    routes = ", ".join(attack.route for attack in attacks)
    return f"| {attacks[0].name} | {routes} | {' | '.join(cells)} | {note} |", held


def touches(name: str, sandbox: str) -> str:
    """What an attack on what is around the sandbox did."""
    with world() as around:
        attack(open_sandbox(sandbox), CANARY_ATTACKS[name], around, Limits())
        return ", ".join(harm.partition(":")[0] for harm in around.harm()) or "nothing"


def holds(name: str, sandbox: str) -> str:
    """What a program held more than it may, where nothing else is limited."""
    if sandbox == UNSANDBOXED:
        return "not tried"
    return hoarded(open_sandbox(sandbox), name, LIMITS.memory_mb if name in MEMORY else LIMITS.scratch_mb) or "nothing"


def kept_in(sandboxes: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Lines of the table about the sandbox itself, and whether each sandbox held."""
    kinds = {
        "reaching or changing what is around": (CANARY_ATTACKS, touches),
        "holding memory that is not counted": (MEMORY, holds),
        "holding disk that is not counted": (DISK, holds),
    }
    for kind, (names, attempt) in kinds.items():
        yield f"| **{kind}** |" + " |" * (len(sandboxes) + 2), True
        for name in names:
            cells = [attempt(name, sandbox) for sandbox in sandboxes]
            held = [cell for cell, sandbox in zip(cells, sandboxes, strict=True) if sandbox != UNSANDBOXED]
            yield f"| {name} | | {' | '.join(cells)} | |", set(held) <= {"nothing"}


def main() -> None:
    """Try all, write the table."""
    permit_unsandboxed(True)
    sandboxes = working()
    names = [open_sandbox(sandbox).name.partition(" (")[0] for sandbox in sandboxes]
    lines = [f"| what it does | tests | {' | '.join(names)} | what came of it |", f"|---|---|{'---|' * len(names)}---|"]
    held = True
    for kind, attacks in ATTACKS.items():
        lines.append(f"| **{kind}** |" + " |" * (len(names) + 2))
        for name in dict.fromkeys(entry.name for entry in attacks):
            line, nothing_won = row([entry for entry in attacks if entry.name == name], sandboxes)
            print(line, file=sys.stderr, flush=True)
            held = held and nothing_won
            lines.append(line)
    for line, kept in kept_in(sandboxes):
        print(line, file=sys.stderr, flush=True)
        held = held and kept
        lines.append(line)
    count = sum(map(len, (*ATTACKS.values(), CANARY_ATTACKS, MEMORY, DISK)))
    head = f"<!-- written by scripts/try_attacks.py: {count} programs in {len(names)} sandboxes -->"
    TABLE.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
