"""A Python assertion about one call with literal arguments, as the call and what it must return.

    f(1, [2]) == 3      f(1) is True      not f(1)      f(1)
    abs(f(1) - 0.5) < 1e-6                math.isclose(f(1), 0.5)

What does not have one of these forms is left to a driver.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from reasoner_rewards.code.calls import Opaque, Question, equal
from reasoner_rewards.code.inside import codec
from reasoner_rewards.code.process import FunctionCall
from reasoner_rewards.code.verdict import cut

NOT_LITERAL = object()
"""what `literal` gives for everything else"""
Holds = Callable[[Any], bool]


def question(condition: ast.expr, names: Collection[str]) -> Question | None:
    """The condition of an assertion as a question about one of these functions; None: it is more than that."""
    parts = _split(condition)
    if parts is None or not {"abs", "math"}.isdisjoint(names):
        return None
    node, holds, expected = parts
    call = _call(node, names)
    if call is not None and isinstance(holds, partial) and holds.func is _truth:
        call = replace(call, truth=True)
    return None if call is None else Question(call, cut(ast.unparse(node)), holds, expected, _largest(condition))


def _largest(condition: ast.expr) -> int:
    """Members of the largest set or dict that is written there."""
    nodes = [*ast.walk(condition)]
    sizes = [len(node.elts) for node in nodes if isinstance(node, ast.Set)]
    return max([*sizes, *(len(node.keys) for node in nodes if isinstance(node, ast.Dict))], default=0)


def literal(node: ast.expr) -> Any:
    """The value of a literal, or `NOT_LITERAL`."""
    try:
        value = ast.literal_eval(node)
        codec.encode(value)  # `...` is a literal, too
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return NOT_LITERAL
    return value


def _split(condition: ast.expr) -> tuple[ast.expr, Holds, str] | None:
    """The call, what must hold of its result, and that in words."""
    match condition:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            for call, expected in ((left, literal(right)), (right, literal(left))):
                if expected is not NOT_LITERAL:
                    return call, equal(expected), cut(ast.unparse(right if call is left else left))
        case ast.Compare(left=call, ops=[ast.Is()], comparators=[ast.Constant(value=None | True | False as expected)]):
            return call, lambda value: value is expected, f"{expected}"
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)], keywords=[]),
            ops=[ast.Lt() | ast.LtE() as below],
            comparators=[most],
        ):
            return _tolerance_check(left, right, literal(most), isinstance(below, ast.LtE))
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr="isclose"), args=[call, right]):
            options = {keyword.arg or "": literal(keyword.value) for keyword in condition.keywords}
            expected = literal(right)
            if NOT_LITERAL not in (expected, *options.values()) and "" not in options:
                return call, lambda value: math.isclose(value, expected, **options), f"about {expected!r}"
        case ast.UnaryOp(op=ast.Not(), operand=call):
            return call, partial(_truth, False), "something false"
        case ast.Call():
            return condition, partial(_truth, True), "something true"
    return None


def _tolerance_check(left: ast.expr, right: ast.expr, most: Any, inclusive: bool) -> tuple[ast.expr, Holds, str] | None:
    for call, centre in ((left, literal(right)), (right, literal(left))):
        if NOT_LITERAL not in (centre, most):

            def holds(value: Any, centre: Any = centre) -> bool:
                distance = abs(value - centre)
                return bool(distance <= most if inclusive else distance < most)

            return call, holds, f"{centre!r} within {most!r}"
    return None


def _truth(wanted: bool, value: Any) -> bool:
    return not isinstance(value, Opaque) and bool(value) is wanted


def _call(node: ast.expr, names: Collection[str]) -> FunctionCall | None:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in names:
            values = [literal(arg) for arg in args]
            named = {keyword.arg or "": literal(keyword.value) for keyword in keywords}
            if not any(value is NOT_LITERAL for value in (*values, *named.values())) and "" not in named:
                return FunctionCall(name, tuple(values), named)
    return None
