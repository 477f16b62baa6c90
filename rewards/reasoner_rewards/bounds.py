"""What an answer may be like to reach the parser and sympy's evaluation.

A text must be short, shallow, have small exponents and use known commands; an expression must have a small upper bound
on its magnitude. So `9^{9^{9^9}}`, deep nesting or a sum over 10^9 terms cost microseconds.
"""

from __future__ import annotations

import math
import re
from typing import Any

MAX_CHARS = 200
MAX_DEPTH = 8
"""brackets and braces inside each other"""
MAX_DIGIT_RUN = 40
MAX_EXPONENT_DEPTH = 2
MAX_LOG10 = 3000.0
"""decimal digits of any number that sympy may have to write out"""
MAX_NODES = 150
MAX_POLYNOMIAL_POWER = 16
"""exponent of a sum that contains variables"""

_UNKNOWN_COMMAND = re.compile(
    r"\\(?!(?:"
    r"frac|sqrt|cdot|times|div|pm|mp|pi|infty|text|circ|degree|cup|cap|setminus|emptyset|"
    r"varnothing|in|mathbb|le|ge|ne|lt|gt|log|ln|exp|sin|cos|tan|cot|sec|csc|arcsin|"
    r"arccos|arctan|sinh|cosh|tanh|alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|"
    r"nu|rho|sigma|tau|phi|varphi|chi|psi|omega|Delta|Omega|lfloor|rfloor|lceil|rceil|vert|"
    r"zeta|eta|kappa|iota|xi|upsilon|hbar|ell|Theta|Lambda|Phi|Psi|overline|bar|hat|vec|tilde|binom|max|min|"
    r"lvert|rvert|lbrace|rbrace|langle|rangle|begin|end"
    r")(?![A-Za-z]))([A-Za-z]+)"
)
_DIGITS = re.compile(r"[0-9]+")
_AMBIGUOUS = re.compile(
    r"(?<![_^0-9])[0-9]+\s+[0-9]|[0-9]\s*\\frac\s*\{\s*[0-9]+\s*\}\s*\{\s*[0-9]+\s*\}|/\s*[0-9]+\s*\("
)
"""two numbers side by side, a mixed number inside an expression, `1/2(x+1)`: products to the parser, not to everybody;
`1/2x` is half of x, as the order of operations has it"""
_DROPPED_MARK = re.compile(r"'|\\prime(?![A-Za-z])|\^\s*\{?\s*(?:T|\\top|\\mathsf|\*|\\dagger)(?![A-Za-z])")
"""marks that the parser drops: a derivative, a transposed matrix, a conjugate"""
_IN_BASE = re.compile(r"[0-9]\s*_")
_LARGE_EXPONENT = re.compile(r"\^\s*\{?\s*[+-]?\s*[0-9]{5}")
_ROOT_INDEX = re.compile(r"\\sqrt\s*\[(?!\s*[0-9]{1,2}\s*\])")
_FORBIDDEN_NODES = frozenset({"Integral", "Derivative", "Sum", "Product", "Limit", "binomial", "Subs"})


class TooComplexError(ValueError):
    """An expression is outside the bounds of this module; the message says which one."""


class NotMathError(ValueError):
    """A text is not LaTeX that the parser understands."""


def check_text(text: str) -> None:
    """Refuse what the parser should not see.

    Raises:
        TooComplexError: with the bound that is exceeded.
    """
    if len(text) > MAX_CHARS:
        raise TooComplexError(f"longer than {MAX_CHARS} characters")
    if any(len(run) > MAX_DIGIT_RUN for run in _DIGITS.findall(text)):
        raise TooComplexError(f"a number has more than {MAX_DIGIT_RUN} digits")
    if _LARGE_EXPONENT.search(text) or _ROOT_INDEX.search(text):
        raise TooComplexError("an exponent or root index is too large")
    if _AMBIGUOUS.search(text):
        raise TooComplexError("it can be read in two ways: write products and denominators in full")
    if _IN_BASE.search(text):
        raise TooComplexError("a number with a base is compared as text only")  # the parser drops the base
    if _DROPPED_MARK.search(text):
        raise TooComplexError("derivatives, transposes and conjugates are compared as text only")
    unknown = _UNKNOWN_COMMAND.search(text)
    if unknown is not None:
        raise TooComplexError(f"the command {unknown.group()} is not supported in answers")
    _check_nesting(text)


def _check_nesting(text: str) -> None:
    opened: list[bool] = []  # True where the bracket opens an exponent
    previous = ""
    for char in text:
        if char in "{([":
            opened.append(previous == "^")
            if len(opened) > MAX_DEPTH or sum(opened) > MAX_EXPONENT_DEPTH:
                raise TooComplexError("brackets or exponents are nested too deeply")
        elif char in "})]" and opened:
            opened.pop()
        if not char.isspace():
            previous = char


def check_size(parsed: Any) -> None:
    """Refuse what sympy should not evaluate.

    Raises:
        TooComplexError: with the bound that is exceeded.
    """
    import sympy

    roots = [parsed] if isinstance(parsed, sympy.Basic) else list(parsed.flat())
    for count, node in enumerate(node for root in roots for node in sympy.preorder_traversal(root)):
        if count > MAX_NODES or type(node).__name__ in _FORBIDDEN_NODES:
            raise TooComplexError(f"more than {MAX_NODES} operations, or one that is not supported in answers")
    for root in roots:
        _log10(root)


def _log10(node: Any) -> float:
    """An upper bound on the decimal digits of the number that a node evaluates to, variables taken as 1."""
    import sympy

    sizes = [_log10(argument) for argument in node.args]
    if isinstance(node, sympy.Rational):
        size = math.log10(abs(node.p) + 1) + math.log10(node.q)
    elif isinstance(node, sympy.Pow):
        size = _power_log10(node, sizes)
    elif isinstance(node, sympy.Mul):
        size = sum(sizes)
    elif isinstance(node, (sympy.factorial, sympy.exp)):
        size = 10 ** min(sizes[0], 5) * max(sizes[0], 1)
    else:
        size = max(sizes, default=1.0) + math.log10(len(sizes) + 1)
    if size > MAX_LOG10:
        raise TooComplexError(f"a value may have more than {MAX_LOG10:.0f} digits")
    return size


def _power_log10(node: Any, sizes: list[float]) -> float:
    exponent = abs(float(node.exp)) if node.exp.is_Rational else 10 ** min(sizes[1], 5)
    compound = node.base.free_symbols and not node.base.is_Symbol
    if compound and exponent > MAX_POLYNOMIAL_POWER:
        raise TooComplexError(f"a sum with variables has an exponent above {MAX_POLYNOMIAL_POWER}")
    return max(sizes[0], 0.5) * max(exponent, 1.0)
