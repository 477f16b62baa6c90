"""Test sources that do what they say when they are run as they stand, or the reason why they would not.

A test that nothing calls, or that asserts nothing, would pass or fail whatever the program does.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from reasoner import Problem

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


def runnable(problem: Problem, sources: Sequence[str], trees: Sequence[ast.Module]) -> list[str]:
    """The sources, with calls of their `def test_...()` at the end, in the order of their definition, as pytest makes
    them. Functions that the sources call themselves are left alone.

    Raises:
        ValueError: a source has no assertion, or one that running it would not reach (the problem is broken, not the
            response).
    """
    named = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [_call_error(problem, source, tree, named) for source, tree in zip(sources, trees, strict=True)]


def _call_error(problem: Problem, source: str, tree: ast.Module, named: set[str]) -> str:
    if not _asserts(tree) and not _has(tree, ast.Raise) and not any(map(_is_test_case, tree.body)):
        raise _unjudgeable(problem, "holds no assertion: it would say nothing of a program", source)
    calls = []
    for node in tree.body:
        if isinstance(node, ast.If) and _has_name(node.test, "__name__"):
            why = "has a block for `__main__`, which is not run: write its statements at the module's level"
            raise _unjudgeable(problem, why, source)
        if isinstance(node, _DEFINITIONS) and node.name not in named:
            calls += _calls(problem, node, source)
    return "\n".join([source, *calls]) + "\n" if calls else source


def _calls(problem: Problem, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, source: str) -> list[str]:
    """The statement that runs a function as pytest would; none for one that is no test."""
    why = ""
    if isinstance(node, ast.ClassDef):
        if _is_test_case(node) or _asserts(node):
            why = f"keeps assertions in the class {node.name}, which nothing runs: write functions `def test_...()`"
    elif not node.name.startswith("test"):
        if _asserts(node):
            why = f"keeps assertions in the function {node.name}, which nothing calls: call it, or name it `test_...`"
    elif node.decorator_list or isinstance(node, ast.AsyncFunctionDef):
        kind = "decorated" if node.decorator_list else "asynchronous"
        why = f"has the {kind} function {node.name}, which needs pytest: call it in the test"
    elif _needed_arguments(node.args):
        why = f"has the function {node.name} with arguments: there are no fixtures; call it in the test"
    else:
        return [f"{node.name}()"]
    if why:
        raise _unjudgeable(problem, why, source)
    return []


def _needed_arguments(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return positional > 0 or any(default is None for default in arguments.kw_defaults)


def _is_test_case(node: ast.stmt) -> bool:
    """A class of unittest or pytest: its methods are what is to be run."""
    if not isinstance(node, ast.ClassDef):
        return False
    tests = any(isinstance(statement, _FUNCTIONS) and statement.name.startswith("test") for statement in node.body)
    return tests and (node.name.startswith("Test") or bool(node.bases))


def _asserts(node: ast.AST) -> bool:
    """Whether there is an assertion in it, or a call that is one (`assertEqual`, `assert_called_with`)."""
    calls = [child.func for child in ast.walk(node) if isinstance(child, ast.Call)]
    names = [call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls]
    return _has(node, ast.Assert) or any(name.startswith("assert") for name in names)


def _has(node: ast.AST, *kinds: type[ast.AST]) -> bool:
    return any(isinstance(child, kinds) for child in ast.walk(node))


def _has_name(node: ast.AST, name: str) -> bool:
    return any(isinstance(child, ast.Name) and child.id == name for child in ast.walk(node))


def _unjudgeable(problem: Problem, why: str, source: str) -> ValueError:
    return ValueError(f"problem {problem.id!r}: a test {why}; got {source[:200]!r}")
