"""Runs the cells of a notebook one after the other in one namespace, as a kernel does; without Jupyter."""

from __future__ import annotations

import ast
import json
import linecache
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

_numbers = count(1)


class Cells:
    """A namespace in which cells are executed. Their source is known to `inspect`, as IPython arranges it."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self, source: str) -> Any:
        """Execute a cell; its last expression's value, which a notebook shows, or None."""
        name = f"<cell {next(_numbers)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        tree = ast.parse(source)
        shown = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
        exec(compile(tree, name, "exec"), self.namespace)
        return eval(compile(shown, name, "eval"), self.namespace) if shown else None


def sources(notebook: Path) -> Iterator[str]:
    """The code cells of a notebook, in order."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])
