r"""Equality of LaTeX expressions through math-verify and sympy, inside bounds.

What reaches the parser, and what reaches sympy's evaluation, is bounded (`bounds.py`). What passes can still be slow to
simplify; the deadline of the reward call is the last resort.

math-verify and sympy are imported at the first use: most answers are numbers and never need them. math-verify's own
deadlines use SIGALRM, which works on the main thread only; they are switched off.
"""

from __future__ import annotations

import logging
import math
import re
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any, cast

from reasoner_rewards.bounds import NotMathError, TooComplexError, check_size, check_text
from reasoner_rewards.numbers import Number, is_endless, may_be_rounded

MAX_BINOMIAL = 300
"""upper number of a binomial coefficient"""
EXACT = 1e-80
"""a difference below it is zero: sympy works with 100 digits before it calls one so small"""
TOLERANCE = 1e-9
"""relative difference above which two values are different, decimals with 15 digits among their terms included"""

_NUMBER_BELOW = re.compile(r"(/\s*[0-9]+)\s*(?=[A-Za-z]|\\(?:sqrt|pi|frac)(?![A-Za-z]))")
_ANGLE = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\^\s*\{?[0-9]\}?)?\s*[({]?\s*[0-9]+(?:\.[0-9]+)?)\s*\^\s*\{?\s*\\circ\s*\}?"
)
_THOUSANDS = re.compile(r"(?<![0-9,.])([1-9][0-9]{0,2}(?:,[0-9]{3})+)(?![0-9,])")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\_{])i(?![A-Za-z])|(?<=[{^])\s*-?i(?![A-Za-z])")
_INDEX = re.compile(r"_\s*\{?\s*i(?![A-Za-z])|i\s*=")
"""`i` that counts something"""
_CAPITAL_I = re.compile(r"(?<![A-Za-z\\])I(?![A-Za-z_])")
"""which the parser takes for the imaginary unit"""
_BINOMIAL = re.compile(r"\\binom\s*\{\s*([0-9]{1,3})\s*\}\s*\{\s*([0-9]{1,3})\s*\}")
_FLIPPED = {">": "<", ">=": "<="}


def same_expression(answer: str, reference: str) -> bool:
    """Whether two normalised LaTeX texts denote the same value, relation or set.

    Raises:
        TooComplexError: one of them is outside the bounds.
        NotMathError: one of them cannot be parsed.
    """
    return _ignore_sympy_errors(lambda: _same_parsed(*_parse_together(answer, reference)))


def _same_parsed(answer: Any, reference: Any) -> bool:
    if _is_scalar(answer) and answer.free_symbols and _sort_terms(answer) == _sort_terms(reference):
        return True
    for parsed in (answer, reference):
        check_size(parsed)
    return _same(answer, reference)


def _sort_terms(node: Any) -> Any:
    """The same tree with the terms of sums and the factors of products in one order; nothing is evaluated."""
    import sympy

    arguments = [_sort_terms(argument) for argument in getattr(node, "args", ())]
    if isinstance(node, (sympy.Add, sympy.Mul)):
        arguments.sort(key=repr)
    return (type(node).__name__, *arguments) if arguments else node


def same_as_number(expression: str, number: Number, tolerance: float = 0.0) -> bool:
    """Whether a LaTeX text has the value of a number: exactly, up to a relative difference, or as its correct rounding
    when it has six significant digits or more.

    Raises:
        TooComplexError, NotMathError: as `same_expression`.
    """
    return _ignore_sympy_errors(lambda: _has_value(_parse(expression), number, tolerance))


def is_expression(text: str) -> bool:
    """Whether a normalised LaTeX text is understood and inside the bounds."""

    def check() -> bool:
        check_size(_understand(text, True))
        return True

    try:
        return _ignore_sympy_errors(check)
    except (TooComplexError, NotMathError):
        return False


def value_of(text: str) -> float | None:
    """The value of a LaTeX text that is a real number; None for anything else."""
    numbers: list[float] = []

    def evaluate() -> bool:
        value = _value_at(_parse(text), 0) if "," not in text else None
        if value is not None and value.is_real and not _parse(text).free_symbols:
            numbers.append(float(value))
        return True

    try:
        _ignore_sympy_errors(evaluate)
    except (TooComplexError, NotMathError):
        return None
    return numbers[0] if numbers else None


def rounds_to(expression: str, rounded: Number) -> bool:
    """Whether a number is what a LaTeX text without variables is rounded to, at the digits that it has.

    Raises:
        TooComplexError, NotMathError: as `same_expression`.
    """

    def check() -> bool:
        import sympy

        parsed = _parse(expression)
        if not isinstance(parsed, sympy.Expr) or parsed.free_symbols:
            return False
        value = sympy.Rational(rounded.value.numerator, rounded.value.denominator)
        distance = abs(sympy.N(parsed.doit() - value, 30))
        return bool(distance.is_comparable and distance <= sympy.Rational(1, 2 * 10 ** (rounded.digits or 0)))

    return _ignore_sympy_errors(check)


def _ignore_sympy_errors(compare: Callable[[], bool]) -> bool:
    """sympy raises many types on expressions that it cannot handle: each of them means "not compared"."""
    try:
        return compare()
    except (TooComplexError, NotMathError):
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise NotMathError(f"sympy cannot compare them ({type(error).__name__}: {str(error)[:80]})") from error


def _has_value(parsed: Any, number: Number, tolerance: float) -> bool:
    import sympy

    if not isinstance(parsed, sympy.Expr):
        return False
    value = sympy.Rational(number.value.numerator, number.value.denominator)
    if _same(parsed, value):
        return True
    if parsed.free_symbols or not (may_be_rounded(number) or tolerance > 0):
        return False
    exact = parsed.doit()
    written_out = exact.is_Rational and not is_endless(Fraction(int(exact.p), int(exact.q)))
    rounding = sympy.Rational(1, 2 * 10 ** (number.digits or 0)) if may_be_rounded(number) and not written_out else 0
    distance = abs(sympy.N(exact - value, 30))
    return bool(distance.is_comparable and distance <= max(rounding, tolerance * abs(value)))


def _parse_together(*texts: str) -> tuple[Any, ...]:
    """`i` is the imaginary unit in all of them or in none."""
    real = not any(_IMAGINARY.search(text) and not _INDEX.search(text) for text in texts)
    return tuple(_understand(text, real) for text in texts)


def _parse(text: str) -> Any:
    parsed = _understand(text, True)
    check_size(parsed)
    return parsed


def _understand(text: str, real: bool) -> Any:
    text = _BINOMIAL.sub(_binomial, _THOUSANDS.sub(lambda number: number[1].replace(",", ""), _in_radians(text)))
    text = _CAPITAL_I.sub("Q_{I}", text)
    text = _NUMBER_BELOW.sub(r"\1\\cdot ", text)
    check_text(text)
    parsed = _parse_checked(text, real)
    if parsed is None:
        raise NotMathError("not understood as LaTeX")
    return parsed if real else _with_imaginary_unit(parsed)


def _with_imaginary_unit(parsed: Any) -> Any:
    """The parser takes `i` for a variable."""
    import sympy

    if not isinstance(parsed, sympy.Expr):
        return parsed
    check_size(parsed)  # rebuilding an expression may evaluate it
    return parsed.subs({symbol: sympy.I for symbol in parsed.free_symbols if symbol.name == "i"})


def _binomial(match: re.Match[str]) -> str:
    upper, lower = int(match[1]), int(match[2])
    return f"({math.comb(upper, lower)})" if upper <= MAX_BINOMIAL else match.group()


def _in_radians(text: str) -> str:
    r"""`\sin 30^\circ` with the angle in radians."""
    return _ANGLE.sub(_radians, text) if r"\circ" in text else text


def _radians(match: re.Match[str]) -> str:
    head = match[1].rstrip("0123456789.")
    return rf"{head}{{\frac{{{match[1][len(head) :]}\pi}}{{180}}}}"


@lru_cache(maxsize=512)  # the responses of a group share their reference, and often their answers
def _parse_checked(text: str, real: bool) -> Any:
    parse = _parser()
    try:
        return parse(text, is_real=real)
    except MemoryError:  # the worker's limit, not the text's fault
        raise
    except Exception:  # the parser raises whatever its grammar met: any failure means that this is not an expression
        return None


@lru_cache(maxsize=1)
def _parser() -> Callable[..., Any]:
    """math-verify's LaTeX parser. `R` and `r` are different variables, which they are not by default."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    return partial(
        latex2sympy,
        convert_degrees=False,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
        ),
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )


def _same(answer: Any, reference: Any) -> bool:
    """math-verify's comparison, behind two checks of our own.

    Relations are compared here: math-verify equates any two that have no solutions. Two expressions with different
    values at a point are different: a proof in microseconds where simplification may not end. Expressions without a
    finite value are equal only when they are the same: it equates `\\infty` times a large number with anything.
    """
    import sympy

    chain_a, chain_r = _relations(answer), _relations(reference)
    if chain_a or chain_r:
        return len(chain_a) == len(chain_r) and all(map(_same_relation, chain_a, chain_r))
    if _is_scalar(answer) and _is_scalar(reference):
        distance = _value_at(answer - reference, 0)
        if distance is None:
            return _same_without_value(answer.doit(), reference.doit())
        if (difference := (answer - reference).doit()).is_Rational:
            return bool(difference == 0)
        if abs(distance) < EXACT and not answer.free_symbols and not reference.free_symbols:
            return True
        if abs(distance) > TOLERANCE * abs(_value_at(reference, 0) or 0):
            return False
        difference = answer - reference
        if difference.expand() == 0 or _same_where_real(answer, reference):
            return True
        if difference.has(sympy.I) and sympy.simplify(difference.rewrite(sympy.exp).expand()) == 0:
            return True
    return bool(_verifier()(reference, answer, timeout_seconds=None))


def _same_where_real(answer: Any, reference: Any) -> bool:
    r"""Whether two expressions with roots or logarithms are equal wherever both are real, as `1/\sqrt{n}` and
    `\sqrt{1/n}` are: to sympy they differ for negative n, where neither is. `\sqrt{x^2}` and `x` are real there, and
    differ."""
    import sympy

    symbols = sorted(answer.free_symbols | reference.free_symbols, key=str)
    if not 0 < len(symbols) <= 3 or not (answer - reference).has(sympy.Pow, sympy.log):
        return False
    positive = {symbol: sympy.Dummy(str(symbol), positive=True) for symbol in symbols}
    if sympy.simplify((answer - reference).subs(positive)) != 0:
        return False
    for signs in range(2 ** len(symbols)):
        values = [_substitute(side, 0, signs, symbols) for side in (answer, reference)]
        left, right = (sympy.N(value, 20) for value in values)
        if left.is_real != right.is_real or (left.is_real and abs(left - right) > TOLERANCE * abs(right)):
            return False
    return True


def _same_without_value(answer: Any, reference: Any) -> bool:
    return bool(answer == reference and (answer.free_symbols or (answer.is_infinite and answer.is_extended_real)))


def _is_scalar(parsed: Any) -> bool:
    import sympy

    return isinstance(parsed, sympy.Expr) and not parsed.is_Matrix


def _value_at(scalar: Any, point: int) -> Any:
    """The value with fixed positive numbers for the variables; None when it has no finite value there."""
    import sympy

    value = sympy.N(_substitute(scalar, point), 20)
    return value if value.is_number and value.is_finite else None


def _substitute(scalar: Any, point: int, signs: int = 0, symbols: Sequence[Any] = ()) -> Any:
    """With a number for every variable; the n-th of `symbols` is negative where the n-th bit of `signs` is set."""
    import sympy

    # by name: the same letter may carry other assumptions on the other side
    numbers = {symbol: zlib.crc32(f"{symbol}/{point}".encode()) % 7919 + 1009 for symbol in scalar.free_symbols}
    negative = {str(symbol) for place, symbol in enumerate(symbols) if signs >> place & 1}
    return scalar.subs(
        {symbol: sympy.Rational(-n if str(symbol) in negative else n, 4099) for symbol, n in numbers.items()}
    )


@lru_cache(maxsize=1)
def _verifier() -> Callable[..., bool]:
    from math_verify import verify

    # it warns that its deadlines are off: the deadline is the scoring service's
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return cast("Callable[..., bool]", verify)


def _relations(parsed: Any) -> list[Any]:
    from sympy.core.relational import Relational

    if isinstance(parsed, Relational):
        return [parsed]
    if type(parsed).__name__ == "And":
        return list(getattr(parsed, "_unsorted_args", parsed.args))
    return []


def _same_relation(answer: Any, reference: Any) -> bool:
    """`lhs - rhs` equal up to a constant factor: positive for inequalities, after `>` was turned into `<`."""
    import sympy

    (kind_a, difference_a), (kind_r, difference_r) = map(_canonical, (answer, reference))
    if kind_a != kind_r or difference_a.free_symbols != difference_r.free_symbols:
        return False
    if not difference_r.free_symbols:
        return bool(answer == reference)
    ratio = difference_a / difference_r
    samples = _value_at(ratio, 0), _value_at(ratio, 1)
    if None not in samples and abs(samples[0] - samples[1]) > TOLERANCE * abs(samples[0]):
        return False
    factor = _substitute(ratio, 0)
    if not factor.is_Rational or (difference_a - factor * difference_r).expand() != 0:
        factor = sympy.simplify(ratio)
    return bool(factor.is_number and factor.is_nonzero and (kind_r in ("==", "!=") or factor.is_positive))


def _canonical(relation: Any) -> tuple[str, Any]:
    sign = -1 if relation.rel_op in _FLIPPED else 1
    difference = (relation.lhs - relation.rhs).doit() * sign
    return _FLIPPED.get(relation.rel_op, relation.rel_op), difference
