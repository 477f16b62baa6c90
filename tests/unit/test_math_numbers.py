"""Numbers are read exactly, and nothing else is read as one."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_rewards.normal import normalise
from reasoner_rewards.numbers import MAX_DIGITS, parse_number, same_number, significant_digits

INTEGERS = st.integers(-(10**40), 10**40)


def value(text: str) -> Fraction | None:
    number = parse_number(normalise(text))
    return None if number is None else number.value


@given(INTEGERS)
def test_integers_in_every_spelling(n: int) -> None:
    for spelling in (
        f"{n}",
        f"{n:,}",
        f"${n}$",
        f"{n}.",
        f"{n}.00",
        f"\\text{{{n}}}",
        f"{n}\\text{{ cm}}",
        f"{n} apples",
    ):
        assert value(spelling) == n


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact(d: Decimal) -> None:
    assert value(f"{d:f}") == Fraction(d)
    assert value(f"{d:,f}") == Fraction(d)
    assert value(f"{d:e}") == Fraction(d)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 1000))
def test_fractions_and_mixed_numbers(top: int, bottom: int, whole: int) -> None:
    assert value(f"{top}/{bottom}") == value(rf"\frac{{{top}}}{{{bottom}}}") == Fraction(top, bottom)
    mixed = whole + Fraction(top, bottom) if top < bottom else None
    assert value(f"{whole} {top}/{bottom}") == value(rf"{whole}\frac{{{top}}}{{{bottom}}}") == mixed


@given(INTEGERS, INTEGERS)
def test_same_number_is_equality_of_integers(a: int, b: int) -> None:
    left, right = parse_number(str(a)), parse_number(str(b))
    assert left is not None
    assert right is not None
    assert same_number(left, right) == (a == b)


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_none(text: str) -> None:
    number = parse_number(normalise(text))
    if number is not None:
        assert any(char.isnumeric() for char in text)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", ".", "$", "1,23", "12,34,567", "1.2.3", "5 or 6", "5x", "5 x", "5 xy", "5 pi",
        "5!", "5^2", "--5", "+-5", "1/0",
        "\\frac{1}{0}", "3 5/2", "1/2/3", "5\\pm 1", "5 and a half", "5 squared", "1e9999",
        "0x10", "5 to 6", "1_000", "five", "∞", "²",
        "1" * (MAX_DIGITS + 1), "5 6", "(5", "nan", "inf",
    ],
)  # fmt: skip
def test_not_a_number(text: str) -> None:
    assert value(text) is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5 km", "km"), ("5\\text{ kilometers}", "km"), ("\\$5", "usd"), ("5 dollars", "usd"), ("5 cm^2", "cm^2"),
        ("5^\\circ", "deg"),
        ("5^\\circ C", "degC"), ("5", ""), ("5 hours", "h"), ("5 hr", "h"),
        ("5\\text{ m}", "m"), ("5 \\text{ m}^{2}", "m^2"),
    ],
)  # fmt: skip
def test_units(text: str, unit: str) -> None:
    number = parse_number(normalise(text))
    assert number is not None
    assert number.unit == unit


def test_scale_words_multiply_and_percent_keeps_its_value() -> None:
    assert value("1.5 million dollars") == 1_500_000
    assert value("2 dozen") == 24
    percent = parse_number("12.5\\%")
    assert percent is not None
    assert (percent.value, percent.percent) == (Fraction(25, 2), True)


@pytest.mark.parametrize(("text", "digits"), [("0.333333", 6), ("0.00012", 2), ("120", 3), ("0.0", 0), ("1/3", 0)])
def test_significant_digits(text: str, digits: int) -> None:
    number = parse_number(text)
    assert number is not None
    assert significant_digits(number) == digits


def test_superscripts_are_exponents_and_other_scripts_are_digits() -> None:
    assert normalise("10²") == "10^{2}"
    assert normalise("−٤٢") == "-42"
    assert normalise("４２") == "42"
