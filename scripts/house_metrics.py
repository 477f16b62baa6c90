#!/usr/bin/env python3
"""Figures of how a checkout is laid out, as a table: folders, files, functions, annotations, keys, lines, imports.

    .venv/bin/python scripts/house_metrics.py [FOLDER ...]

One column per checkout (default: this one). Nothing of a checkout is imported, only parsed, so it may be of any age.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    path: Path
    """relative to the checkout"""
    lines: int
    tree: ast.Module


def modules(checkout: Path, folder: str) -> list[Module]:
    parsed = []
    for path in sorted((checkout / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parsed.append(Module(path.relative_to(checkout), len(text.splitlines()), ast.parse(text)))
    return parsed


def functions(module: Module) -> Iterator[Function]:
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring, which is to be long where there is much to say."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def is_annotated(function: Function) -> bool:
    """Every parameter and the result, `self` and `cls` aside."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [item for item in (arguments.vararg, arguments.kwarg) if item]
    typed = [item.annotation is not None for item in named if item.arg not in ("self", "cls")]
    return function.returns is not None and all(typed)


def per_folder(parsed: list[Module]) -> dict[Path, int]:
    """folder -> modules, `__init__.py` aside"""
    counts: dict[Path, int] = {}
    for module in parsed:
        if module.path.name != "__init__.py":
            counts[module.path.parent] = counts.get(module.path.parent, 0) + 1
    return counts


def packages_imported(parsed: list[Module]) -> set[tuple[str, str]]:
    """Pairs of parts of `reasoner` of which the first imports the second. A module of the top level is a part, as a
    package is: whoever looks for something has as many places to look."""
    parts = {part(".".join(module.path.with_suffix("").parts)) for module in parsed}
    pairs = set()
    for module in parsed:
        own = part(".".join(module.path.with_suffix("").parts))
        for node in ast.walk(module.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            pairs |= {(own, part(name)) for name in names if part(name) in parts - {own}}
    return pairs


def part(name: str) -> str:
    return name.split(".")[1] if name.startswith("reasoner.") else ""


def keys(checkout: Path) -> int:
    """Those that `tests/unit/test_architecture.py` freezes."""
    tree = ast.parse((checkout / "tests" / "unit" / "test_architecture.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KEYS":
            return len(str(ast.literal_eval(node.value)).split())
    raise SystemExit(f"{checkout}: tests/unit/test_architecture.py holds no KEYS")


def figures(checkout: Path) -> Mapping[str, str]:
    reasoner, rewards, tests = (modules(checkout, folder) for folder in ("reasoner", "rewards", "tests"))
    folders, sizes = per_folder(reasoner), [module.lines for module in reasoner if module.path.name != "__init__.py"]
    largest = max(reasoner, key=lambda module: module.lines)
    everything = [function for module in reasoner for function in functions(module)]
    lengths = sorted(map(length, everything))
    longest = max(everything, key=length)
    annotated = [is_annotated(function) for function in everything]
    parts = {part(".".join(module.path.with_suffix("").parts)) for module in reasoner}
    return {
        "modules per folder, median / most": f"{statistics.median(folders.values()):g} / {max(folders.values())}",
        "lines per file, median": f"{statistics.median(sizes):g}",
        "largest file": f"{largest.lines} ({largest.path.relative_to('reasoner').as_posix()})",
        "lines per function, 95th percentile": f"{lengths[int(0.95 * len(lengths))]}",
        "longest function": f"{length(longest)} ({longest.name})",
        "annotated functions": f"{sum(annotated) / len(annotated):.1%}",
        "keys of the configuration": f"{keys(checkout)}",
        "lines in reasoner/": f"{sum(module.lines for module in reasoner):,}",
        "lines in rewards/": f"{sum(module.lines for module in rewards):,}",
        "lines in tests/": f"{sum(module.lines for module in tests):,}",
        "packages and modules at the top level of reasoner/": f"{len(parts)}",
        "imports from one of these to another": f"{len(packages_imported(reasoner))}",
    }


def main() -> None:
    checkouts = [Path(item).resolve() for item in sys.argv[1:]] or [ROOT]
    columns = [figures(checkout) for checkout in checkouts]
    print(f"| | {' | '.join(checkout.name for checkout in checkouts)} |")
    print(f"|---|{'---|' * len(checkouts)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
