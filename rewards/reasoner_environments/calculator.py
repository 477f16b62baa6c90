"""The tool `calculator`: exact arithmetic on whole numbers of any size and on decimal fractions, without `eval`.

Numbers are bounded, and a power is measured before it is calculated: `9**9**9` is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from reasoner import ToolError, tool

MAX_CHARACTERS = 4000
"""of an expression"""
MAX_DEPTH = 60
"""parentheses, signs and powers inside each other"""
SHOWN_PLACES = 12
"""digits after the point of a result that has no end"""
EXACT_PLACES = 40
"""digits after the point of a result that has one; longer ones are shown as a fraction"""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d*)?|\.\d+)|(?P<operator>\*\*|[-+*/()^×÷−]))"
)
_WRITTEN = {"^": "**", "×": "*", "÷": "/", "−": "-"}


@tool("calculator", timeout_s=2.0)
def calculator(expression: str, *, max_digits: Annotated[int, Field(ge=1, le=2000)] = 1000) -> str:
    """Calculate exactly with numbers of any size: + - * / ** and parentheses.

    Args:
        expression: what to calculate, such as 12 * (345 + 67)
        max_digits: digits that a number may have, in the expression and on the way to the result
    """
    return shown(_Parser(expression, max_digits).value())


def shown(value: Fraction) -> str:
    """`42`, `3.5`, or `1/3 = 0.333333333333...`."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest == 1 and places <= EXACT_PLACES:
        return _decimal(value, places)
    return f"{value.numerator}/{value.denominator} = {_decimal(value, SHOWN_PLACES)}..."


def _decimal(value: Fraction, places: int) -> str:
    """Cut, not rounded."""
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


class _Parser:
    """Recursive descent, which calculates on the way: sum -> product -> signed -> power -> number or ( sum )."""

    def __init__(self, text: str, max_digits: int) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ToolError(f"the expression has {len(text)} characters, and may have {MAX_CHARACTERS}")
        self._tokens = _tokens(text)
        self._at, self._depth = 0, 0
        self._max_digits, self._limit = max_digits, 10**max_digits

    def value(self) -> Fraction:
        result = self._sum()
        if self._next() is not None:
            raise ToolError(f"unexpected {self._next()!r} after a complete expression")
        return result

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *operators: str) -> str | None:
        token = self._next()
        if token not in operators:
            return None
        self._at += 1
        return token

    def _sum(self) -> Fraction:
        left = self._product()
        while operator := self._take("+", "-"):
            right = self._product()
            left = self._check_size(left + right if operator == "+" else left - right)
        return left

    def _product(self) -> Fraction:
        left = self._signed_number()
        while operator := self._take("*", "/"):
            right = self._signed_number()
            if operator == "/" and not right:
                raise ToolError("division by zero")
            left = self._check_size(left * right if operator == "*" else left / right)
        return left

    def _signed_number(self) -> Fraction:
        if sign := self._take("+", "-"):
            value = self._inside(self._signed_number)
            return -value if sign == "-" else value
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        if self._take("**") is None:
            return base
        exponent = self._inside(self._signed_number)
        if exponent.denominator != 1:
            raise ToolError(f"the exponent must be a whole number, got {shown(exponent)}")
        if not base and exponent < 0:
            raise ToolError("division by zero")
        if abs(base) in (0, 1) and exponent:  # all their powers are two values
            return base ** (2 - exponent.numerator % 2)
        if (_bits(base) - 1) * abs(exponent.numerator) > self._limit.bit_length():  # it has at least so many bits
            raise self._size_error()
        return self._check_size(base**exponent.numerator)

    def _atom(self) -> Fraction:
        token = self._next()
        if token is None:
            raise ToolError("the expression ends where a number is expected")
        self._at += 1
        if token == "(":
            value = self._inside(self._sum)
            if self._take(")") is None:
                raise ToolError("a parenthesis is not closed")
            return value
        if not (token[0].isdigit() or token[0] == "."):
            raise ToolError(f"a number is expected, got {token!r}")
        return self._check_size(Fraction(token.replace(",", "")))

    def _inside(self, rule: Callable[[], Fraction]) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"parentheses, signs and powers may be {MAX_DEPTH} deep")
        value = rule()
        self._depth -= 1
        return value

    def _check_size(self, value: Fraction) -> Fraction:
        if max(abs(value.numerator), value.denominator) >= self._limit:
            raise self._size_error()
        return value

    def _size_error(self) -> ToolError:
        return ToolError(f"the result is too large: numbers may have {self._max_digits} digits")


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ToolError(f"{text[at:].strip()[:1]!r} is no part of an expression: numbers, + - * / ** and ( )")
        token = match["number"] or match["operator"]
        tokens.append(_WRITTEN.get(token, token))
        at = match.end()
    return tokens


def _bits(value: Fraction) -> int:
    """Of the longer of its two numbers."""
    return max(abs(value.numerator).bit_length(), value.denominator.bit_length())
