"""What a program is by its text: which names it binds, and whether it is the body of a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def bound_names(tree: ast.Module) -> set[str]:
    """What a module defines, assigns or imports at its own level, inside of `if`, `try`, `for` and `with` as well."""
    names: set[str] = set()
    for node in _own_level(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names


def begins_indented(text: str) -> bool:
    """Whether its first line that is not blank is indented, as that of a function's body."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first[:1].isspace()


def _own_level(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, but not those that functions, classes and comprehensions have for themselves."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, _SCOPES):
            yield from _own_level(child)


_SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
