"""The tool `calculator`: exact results, and refusals in words."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner import ToolError
from reasoner_environments.calculator import calculator, shown


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 4 - 3", "3"),
        ("100 / 10 / 2", "5"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ** -2", "0.25"),
        ("2 * -3", "-6"),
        ("0 ** 0", "1"),
        ("(-1) ** (10 ** 900 + 1)", "-1"),
        ("98765432109876543210 * 12345678901234567890", "1219326311370217952237463801111263526900"),
        ("0.1 + 0.2", "0.3"),
        (".5 + 1.", "1.5"),
        ("1/3", "1/3 = 0.333333333333..."),
        ("-1/3", "-1/3 = -0.333333333333..."),
        ("2**-100", "1/1267650600228229401496703205376 = 0.000000000000..."),
        ("1,234,567 + 1", "1234568"),
        ("2 ^ 3 × 4 ÷ 2 − 1", "15"),
        ("12 *\n 3\t", "36"),
    ],
)
def test_results(expression: str, result: str) -> None:
    assert calculator(expression) == result


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("9**9**9", "too large"),
        ("9**9**9**9**9", "too large"),
        ("3**-99999999999", "too large"),
        ("10**1000", "too large"),
        ("(10**999) * 10", "too large"),
        ("1" * 1001, "too large"),
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("2**0.5", "the exponent must be a whole number, got 0.5"),
        ("", "ends where a number is expected"),
        ("1 +", "ends where a number is expected"),
        ("* 2", "a number is expected, got '*'"),
        ("(1 + 2", "a parenthesis is not closed"),
        ("1)", "unexpected ')'"),
        ("1 2", "unexpected '2'"),
        ("1,23", "',' is no part"),
        ("2 + x", "'x' is no part"),
        ("__import__('os')", "'_' is no part"),
        ("1 = 1", "'=' is no part"),
        ("(" * 61 + "1" + ")" * 61, "60 deep"),
        ("-" * 61 + "1", "60 deep"),
        ("2**" * 61 + "1", "60 deep"),
        ("1+" * 2001 + "1", "4003 characters"),
    ],
)
def test_refusals(expression: str, words: str) -> None:
    started = time.process_time()
    with pytest.raises(ToolError) as caught:
        calculator(expression)
    assert words in str(caught.value)
    assert time.process_time() - started < 1.0  # 9**9**9 would take days


def test_the_bound_is_an_option() -> None:
    assert calculator("9" * 5, max_digits=5) == "99999"
    with pytest.raises(ToolError, match="numbers may have 5 digits"):
        calculator("99999 + 1", max_digits=5)


NUMBERS = st.integers(0, 10**12)


def joined(parts: tuple[str, str, str]) -> str:
    left, operator, right = parts
    return f"({left}){operator}({right})"


@given(
    st.recursive(
        NUMBERS.map(str), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(joined), max_leaves=20
    )
)
def test_it_agrees_with_fractions(expression: str) -> None:
    try:
        expected = calculated(expression)
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="division by zero"):
            calculator(expression)
        return
    result = calculator(expression)
    assert result == shown(expected)
    assert Fraction(result.partition(" ")[0]) == expected


def calculated(expression: str) -> Any:
    return eval(re.sub(r"\d+", lambda number: f"Fraction({number[0]})", expression), {"Fraction": Fraction})
