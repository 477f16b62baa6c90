r"""Answers that name their values: `\theta = 12`, `P(A) = 1/3`, `(x,y) = (3,-1)`, `p=5, q=2; p=7, q=2`.

An answer without names gives the values in the order of the reference; an answer with names, in any order. A value is
named by a symbol, a function of one, points (`AB`, `\angle ABC`, `|AB|`) or words, not by an equation in it: `2x = 10`
is no way to write 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_SYMBOL = r"(?:[A-Za-z]|\\(?!text|frac|sqrt|sin|cos|tan|log|ln|exp|pm|in|le|ge|lt|gt|ne|cup|angle|triangle)[A-Za-z]+)"
_INDEX = r"(?:\s*_\s*(?:\{[^{}=]*\}|[A-Za-z0-9])|')*"
_ATOM = rf"{_SYMBOL}{_INDEX}"
_NAME = re.compile(
    rf"(?:{_ATOM}(?:\s*\(\s*[^()=]{{1,20}}\s*\))?"  # x, x_1, f(x), P(A)
    r"|\|?\s*(?:\\(?:overline|vec|overrightarrow)\s*\{)?\s*[A-Z]{2,3}\s*\}?\s*\|?"  # AB, |AB|, \overline{AB}
    rf"|\|\s*(?:\\vec\s*\{{?)?{_ATOM}\}}?\s*\|"  # |z|
    r"|m?\s*\\angle\s*(?:[A-Z]{1,3}|\{[A-Z]{1,3}\})(?:_[0-9])?"
    r"|\\(?:sin|cos|tan|cot)\s*\{?\s*(?:\\angle\s*)?(?:[A-Z]{1,3}|\\(?:alpha|beta|gamma|theta|phi)(?![A-Za-z]))\s*\}?"
    rf"|\\(?:max|min)\s*\{{?\s*{_ATOM}(?:\s*\([^()=]{{1,20}}\))?\s*\}}?"  # max f(x)
    r"|P\s*\([^()]{1,40}\)"  # P(X=2)
    r"|\\text\s*\{[^{}=]*\}(?:\s*\([^()=]*\))?|[A-Za-z]{3,}(?: [A-Za-z]+)*"  # words
    rf"|{_ATOM}(?:\s*:\s*{_ATOM})+"  # V_1:V_2
    r")"
)
_SUM = re.compile(r"(?![xyz])[a-z](?:\s*\+\s*(?![xyz])[a-z])+")
"""`m+n`, which names what was asked for; `x+y = 10` is a line"""
_TUPLE = re.compile(rf"\(\s*{_ATOM}(?:\s*,\s*{_ATOM})+\s*\)")
_EQUALS = re.compile(r"(?<![\\<>!=:])=(?!=)|\\equiv(?![A-Za-z])")
_SEPARATORS = re.compile(
    r"\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:land|lor|wedge|vee)(?![A-Za-z]))\s*"
)
MOST = 24
"""named values in one answer"""

NamesEqual = Callable[[str, str], bool]
"""`(answer, reference)`: whether two values are equal"""


@dataclass(frozen=True, slots=True)
class Named:
    """Solutions, each a value by name in the order in which they are given."""

    solutions: tuple[dict[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those of every solution."""
        return tuple(self.solutions[0])

    @property
    def values(self) -> str:
        """Without the names, as a list: of tuples where there are several names and solutions."""
        if len(self.solutions) == 1:
            return ", ".join(self.solutions[0].values())
        several = len(self.names) > 1
        return ", ".join(f"({solution})" if several else solution for solution in map(_join_values, self.solutions))


def _sides(text: str) -> list[str]:
    """At equal signs outside brackets."""
    sides, start = [], 0
    for sign in _EQUALS.finditer(text):
        before = text[: sign.start()]
        if before.count("(") <= before.count(")") and before.count("{") <= before.count("}"):
            sides.append(text[start : sign.start()].strip())
            start = sign.end()
    return [*sides, text[start:].strip()]


def is_name(text: str) -> bool:
    """Whether a text names a value and says nothing about it."""
    return _NAME.fullmatch(text.strip()) is not None


def named_values(text: str) -> Named | None:
    """The named values of a normalised text that is nothing else; None: there are none, or other things as well."""
    if "=" not in text and r"\equiv" not in text:
        return None
    if (whole := _single_solution(text)) is not None:
        return Named((whole,)) if isinstance(whole, dict) else Named(tuple(whole))
    parts = [part for group in _split(_SEPARATORS.sub(", ", text), ";") for part in _split(group, ",")]
    if not parts or len(parts) > MOST:
        return None
    pairs: list[tuple[str, str]] = []
    for part in parts:
        values = _single_solution(part)
        if not isinstance(values, dict):
            return None
        pairs += values.items()
    return _group_solutions(pairs)


def same_named(answer: Named, reference: Named, same: NamesEqual) -> bool:
    """The same solutions in any order, each with the same names."""
    if len(answer.solutions) != len(reference.solutions):
        return False
    left = list(answer.solutions)
    for wanted in reference.solutions:
        match = next((candidate for candidate in left if _agree(candidate, wanted, same)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _agree(candidate: dict[str, str], wanted: dict[str, str], same: NamesEqual) -> bool:
    return candidate.keys() == wanted.keys() and all(same(candidate[name], value) for name, value in wanted.items())


def _single_solution(text: str) -> dict[str, str] | list[dict[str, str]] | None:
    """`name = value`, or `(x, y) = (1, 2)`, or that with several tuples."""
    sides = _sides(text)
    if len(sides) != 2 or not sides[1]:
        return None
    left, right = sides
    if _TUPLE.fullmatch(left):
        names = [_key(name) for name in left.strip("() ").split(",")]
        tuples = [_split(part.strip()[1:-1], ",") for part in _split(right, ",") if part.strip().startswith("(")]
        if not tuples or any(len(values) != len(names) for values in tuples) or len(set(names)) < len(names):
            return None
        solutions = [dict(zip(names, values, strict=True)) for values in tuples]
        return solutions[0] if len(solutions) == 1 else solutions
    if not (is_name(left) or _SUM.fullmatch(left)) or _split(right, ",")[1:]:
        return None
    return {_key(left): right}


def _group_solutions(pairs: list[tuple[str, str]]) -> Named | None:
    """`p=5, q=2, p=7, q=2` are two solutions, as `x=1, x=2` are."""
    names = list(dict.fromkeys(name for name, _ in pairs))
    if len(pairs) % len(names):
        return None
    chunks = [pairs[start : start + len(names)] for start in range(0, len(pairs), len(names))]
    solutions = tuple(dict(chunk) for chunk in chunks)
    return Named(solutions) if all(solution.keys() == set(names) for solution in solutions) else None


def _join_values(solution: dict[str, str]) -> str:
    return ", ".join(solution.values())


def _key(name: str) -> str:
    """One spelling for a name."""
    return re.sub(r"[\s{}]", "", name)


def _split(text: str, separator: str) -> list[str]:
    """At separators outside brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
