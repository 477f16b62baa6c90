"""Rules about variables, read as expressions, and all assignments that keep them.

A rule is parsed by Python's `ast` and evaluated here, node by node: nothing is executed as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Value = int | str
Assignment = Mapping[str, Value]

MOST_STEPS = 50_000
"""values that the enumeration tries"""
MOST_CHARS = 300
"""characters of a rule"""
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_RELATIONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "different": lambda *values: len(set(values)) == len(values),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, read."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    """the variables in it"""

    def holds(self, values: Assignment) -> bool:
        """Whether an assignment of its variables keeps it; a division by zero, or of a text, breaks it."""
        try:
            return bool(_evaluate(self.tree, values))
        except (ZeroDivisionError, TypeError):
            return False


@lru_cache(maxsize=4096)
def read_rule(text: str, variables: frozenset[str]) -> Rule:
    """
    Raises:
        ValueError: it is no expression, or has something in it that is not known.
    """
    if len(text) > MOST_CHARS:
        raise ValueError(f"the rule is longer than {MOST_CHARS} characters: {text[:80]!r}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {error}") from None
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if fault := _fault(node, called, variables):
            raise ValueError(f"{text!r}: {fault}")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in called}
    return Rule(text, tree, frozenset(names))


def _fault(node: ast.AST, called: set[ast.expr], variables: frozenset[str]) -> str:
    if isinstance(node, ast.Name):
        known = _FUNCTIONS if node in called else variables
        return "" if node.id in known else f"there is no {node.id!r}; known are {', '.join(sorted(known))}"
    if isinstance(node, ast.Constant):
        return "" if type(node.value) in (int, str) else f"{node.value!r} is no whole number or text"
    if isinstance(node, ast.Call):
        return "keywords are not known" if node.keywords or not isinstance(node.func, ast.Name) else ""
    fine = (ast.BinOp, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.And, ast.Or, ast.Not, ast.USub, ast.Load)
    if isinstance(node, (*fine, *_ARITHMETIC, *_RELATIONS)):
        return ""
    return f"{type(node).__name__} is not known in a rule"


def _evaluate(node: ast.expr, values: Assignment) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return values[name]
        case ast.UnaryOp(ast.Not(), operand):
            return not _evaluate(operand, values)
        case ast.UnaryOp(_, operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left, operation, right):
            return _ARITHMETIC[type(operation)](_number(left, values), _number(right, values))
        case ast.BoolOp(ast.And(), parts):
            return all(_evaluate(part, values) for part in parts)
        case ast.BoolOp(_, parts):
            return any(_evaluate(part, values) for part in parts)
        case ast.Compare(left, relations, others):
            sides = [_evaluate(item, values) for item in (left, *others)]
            pairs = zip(relations, sides, sides[1:], strict=False)
            return all(_RELATIONS[type(relation)](one, two) for relation, one, two in pairs)
        case ast.Call(ast.Name(name), arguments):
            return _FUNCTIONS[name](*(_evaluate(argument, values) for argument in arguments))
    raise AssertionError(f"{ast.dump(node)} was let through")


def _number(node: ast.expr, values: Assignment) -> int:
    """A text is not multiplied or formatted."""
    value = _evaluate(node, values)
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    return value


def solutions(domains: Mapping[str, Sequence[Value]], rules: Sequence[Rule]) -> Iterator[dict[str, Value]]:
    """All assignments that keep the rules, in the order of the domains. A branch ends at the first rule that it breaks.

    Raises:
        ValueError: it takes more than `MOST_STEPS` steps.
    """
    names = list(domains)
    due: list[list[Rule]] = [[] for _ in names]
    for rule in rules:
        due[max((names.index(name) for name in rule.names), default=0)].append(rule)
    chosen: dict[str, Value] = {}
    steps = 0

    def extend(depth: int) -> Iterator[dict[str, Value]]:
        nonlocal steps
        if depth == len(names):
            yield dict(chosen)
            return
        for value in domains[names[depth]]:
            steps += 1
            if steps > MOST_STEPS:
                raise ValueError(f"the puzzle takes more than {MOST_STEPS} steps: give it fewer values or variables")
            chosen[names[depth]] = value
            if all(rule.holds(chosen) for rule in due[depth]):
                yield from extend(depth + 1)

    return extend(0)
