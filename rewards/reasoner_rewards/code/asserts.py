"""Tests written as Python assertions, the way MBPP and HumanEval have them.

An assertion about one call with literal arguments says a call and what it must return: no test code has to run, and
`calls.judge` makes them all in one process. Anything else runs in a driver (`driven.py`). Which names the program
defines, and which belong to the tests, is decided here, from the problem alone: a program that redefines `abs` or
`len` must not change what a test means.
"""

from __future__ import annotations

import ast
import builtins
import collections
import collections.abc
import enum
import fractions
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from reasoner import Problem
from reasoner_rewards.code.assertion import NOT_LITERAL, literal, question
from reasoner_rewards.code.bindings import begins_indented
from reasoner_rewards.code.calls import Question
from reasoner_rewards.code.fields import missing, text_field
from reasoner_rewards.code.process import Program
from reasoner_rewards.code.runnable import runnable

CHECK = "check"
"""the function of tests that take the program's as their argument (HumanEval)"""


@dataclass(frozen=True, slots=True)
class AssertTests:
    """The tests of a problem, with what surrounds them."""

    prelude: str
    """imports, helpers and signature that the problem shows; the program may go on where it ends"""
    entry_point: str
    """the function that `prelude` leaves open; empty: none"""
    setup: str
    """runs once before the tests"""
    sources: tuple[str, ...]
    names: tuple[str, ...]
    """what the program defines, as the tests call it"""
    operators: dict[str, list[str]] | None
    """operators that each class of the reference program defines; None: there is no reference program"""
    questions: tuple[Question, ...] | None
    """the tests as calls; None: they need a driver"""

    def program(self, text: str) -> Program:
        """The model's program with what the problem shows before it. One that starts indented is the open body."""
        if not self.prelude.strip():
            return Program((text,))
        if begins_indented(text):
            return Program((f"{self.prelude.rstrip()}\n{text}",))
        shown = ast.parse(self.prelude)
        # without the open function: whoever does not define it must not get one that returns None
        shown.body = [statement for statement in shown.body if getattr(statement, "name", None) != self.entry_point]
        return Program((ast.unparse(shown), text))


def read_asserts(problem: Problem) -> AssertTests:
    """The fields `tests` (a text or a list of texts) and, where they are, `setup`, `imports`, `prelude`, `entry_point`.

    Raises:
        ValueError: they are something else, or not Python (the problem is broken, not the response).
    """
    field = problem.fields.get("tests")
    sources = [field] if isinstance(field, str) else field
    if (
        not isinstance(sources, list)
        or not sources
        or not all(isinstance(source, str) and source for source in sources)
    ):
        raise missing(problem, "Python text, or a list of it")
    prelude, entry = text_field(problem, "prelude"), text_field(problem, "entry_point")
    setup = "\n".join(filter(None, (text_field(problem, "imports"), text_field(problem, "setup"))))
    if entry and any(_defines(_parse_field(problem, "tests", source), CHECK) for source in sources):
        sources = [f"{source}\n{CHECK}({entry})\n" for source in sources]
    sources = runnable(problem, sources, [_parse_field(problem, "tests", source) for source in sources])
    trees = [_parse_field(problem, "tests", source) for source in sources]
    before = _parse_field(problem, "prelude", prelude)
    setting = _parse_field(problem, "setup", setup)
    reference = _reference(problem)
    names, modules = _names(before, [setting, *trees], entry, reference)
    imports = "".join(f"import {module}\n" for module in modules)
    only_imports = all(isinstance(statement, (ast.Import, ast.ImportFrom)) for statement in setting.body)
    known = not set(names).isdisjoint(_bound(reference.body))
    operators = _operators([*before.body, *reference.body]) if known else None
    # where the reference program's objects compare themselves, an answer may be one of them
    comparing = any("__eq__" in defined for defined in (operators or {}).values())
    questions = _questions(trees, entry, frozenset(names)) if only_imports and not comparing else None
    return AssertTests(prelude, entry, imports + setup, tuple(sources), names, operators, questions)


def _parse_field(problem: Problem, name: str, source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"problem {problem.id!r}: the field {name!r} is not Python: {error}; got {source[:200]!r}"
        ) from None


def _reference(problem: Problem) -> ast.Module:
    """The reference program, where the answer is one."""
    try:
        return ast.parse(problem.answer)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _names(
    before: ast.Module, trees: Sequence[ast.Module], entry: str, reference: ast.Module
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which names of the tests the program defines, and which are modules that they forgot to import.

    A name that neither the tests nor the problem define is the program's, unless it is a builtin that the reference
    program leaves alone, or a module that is used as one.
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = set(chain(_bound(nodes), *(_bound([child]) for child in before.body))) - {entry}
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - own
    bases = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    called = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in bases}
    defined = {
        entry,
        *chain(*(_bound([statement]) for statement in reference.body if not isinstance(statement, _IMPORTS))),
    }
    modules = {name for name in used - called - defined if name in sys.stdlib_module_names}
    reference_names = {name for name in used - modules if name in defined or not hasattr(builtins, name)}
    return tuple(sorted(reference_names)), tuple(sorted(modules))


_IMPORTS = (ast.Import, ast.ImportFrom)


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that these nodes themselves bind."""
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.arg():
                yield node.arg
            case ast.ExceptHandler(name=str(name)):
                yield name
            case ast.Assign() | ast.AnnAssign():
                yield from _bound(child for child in ast.walk(node) if isinstance(child, ast.Name))


_ORDER = ["__lt__", "__le__", "__gt__", "__ge__"]


def _operators(body: Sequence[ast.stmt]) -> dict[str, list[str]]:
    """The names with two underscores that each class there has, its own and those of its bases."""
    names: dict[str, list[str]] = {}
    for node in chain.from_iterable(map(ast.walk, body)):
        if not isinstance(node, ast.ClassDef):
            continue
        defined = set(_bound([child for child in ast.walk(node) if isinstance(child, (ast.FunctionDef, ast.Name))]))
        for base in node.bases:
            name = ast.unparse(base).rpartition(".")[2]
            defined |= {*names.get(name, ())} | _library_names(name)
        for decorator in map(ast.unparse, node.decorator_list):
            if "dataclass" in decorator:
                defined |= {"__eq__", *(_ORDER if "order=True" in decorator else ())}
            if "total_ordering" in decorator:
                defined |= {*_ORDER}
        names[node.name] = sorted(name for name in defined if name.startswith("__"))
    return names


def _library_names(name: str) -> set[str]:
    """Of a class of the standard library that programs extend."""
    for module in (collections, collections.abc, enum, fractions):
        if isinstance(own := getattr(module, name, None), type):
            return {var for kind in own.__mro__[:-1] for var in vars(kind)}
    return set()


def _defines(tree: ast.Module, name: str) -> bool:
    return any(isinstance(statement, ast.FunctionDef) and statement.name == name for statement in tree.body)


def _questions(trees: Sequence[ast.Module], entry: str, names: frozenset[str]) -> tuple[Question, ...] | None:
    """The tests as calls; None: one of them is more than that."""
    statements = [statement for tree in trees for statement in _statements(tree.body, entry)]
    questions = [
        question(statement.test, names) if isinstance(statement, ast.Assert) else None for statement in statements
    ]
    asked = tuple(asked for asked in questions if asked is not None)
    return asked if asked and len(asked) == len(questions) else None


def _statements(body: Sequence[ast.stmt], entry: str) -> Iterator[ast.stmt]:
    """Those that do something; `check` as its body, with the function that it is called with."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name="check", args=ast.arguments(args=[ast.arg(arg=parameter)])) if entry:
                yield from _statements(_Renamed(parameter, entry).visit(statement).body, entry)
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant() | ast.Name()):
                pass
            case ast.Expr(value=ast.Call(func=ast.Name(id="check"))) if entry:
                pass
            case ast.Assert(test=ast.Constant(value=value)) if value:
                pass
            case ast.Assign(targets=[ast.Name()], value=value) if literal(value) is not NOT_LITERAL:
                pass
            case _:
                yield statement


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """The name, or the other one."""
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node
