r"""Whether a final answer equals a reference answer: text, then numbers, then collections, then LaTeX.

`tolerance` is the relative difference up to which a number equals a reference that is one; 0: none but rounding.

The reference decides what counts. Against a number, an answer must be a finished value: sums and products of numbers
are not (`48+24` for `72`: a policy would learn to box the exercise), powers, roots and fractions are. Against words,
only words count. Two values at once (`5 or 6`, `\pm 5`) equal only a reference that lists the same ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from reasoner_rewards.normal import normalise, words
from reasoner_rewards.numbers import Number, may_be_unit, parse_number, same_number
from reasoner_rewards.solutions import interval_of, is_interval, set_of, with_both_signs, without_names
from reasoner_rewards.symbolic import NotMathError, TooComplexError, same_as_number, same_expression

Means = Literal["text", "number", "collection", "expression", "none"]

MAX_ELEMENTS = 24
"""elements of a list, tuple or set"""

_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ .,'’&-])*")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_EQUALS = re.compile(r"(?<![\\<>!=:])=(?!=)")
_SEVERAL = re.compile(
    r"[,;<>]|\\(?:pm|mp|le|ge|ne|lt|gt|in|cup|approx|text)(?![A-Za-z])|(?<![A-Za-z])(?:or|and)(?![A-Za-z])"
)
_ARITHMETIC = re.compile(r"[+*]|(?<=[\w)}\]!])\s*-|\\(?:times|cdot|div)(?![A-Za-z])")
_IN_BRACKETS = re.compile(r"\(([^(),;]*)\)")
_NAME = re.compile(r"\s*[A-Za-z](?:\([a-z]\))?\s*")
_INEQUALITY = re.compile(r"[<>]|\\[lg][et](?![A-Za-z])")
_BARE_UNIT = re.compile(r"(.*?[0-9])\s?([A-Za-z]+(?:/[A-Za-z]+)?)(\^\{?[23]\}?)?")
_BASE = re.compile(r"(?=[A-Za-z]*[0-9])([0-9A-Za-z]+)(?:_\{?([2-9]|[12][0-9]|3[0-6])\}?)?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z]")
_TRAILING_TEXT = re.compile(r"\s*\\text\s*\{([^{}0-9]*)\}(?:\s*\^\s*\{?[23]\}?)?$|\s*\^\s*\{?\s*\\circ\s*\}?$")
_CONNECTIVE = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*", re.IGNORECASE
)
_BRACKETS = {"(": ")", "[": "]", r"\{": r"\}"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two answers are equal, what decided it, and why not."""

    equal: bool
    means: Means
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Collection:
    opening: str
    """`(`, `[`, `\\{`, or empty for a bare list"""
    closing: str
    elements: tuple[str, ...]


def compare(answer: str, reference: str, tolerance: float = 0.0) -> Verdict:
    """Compare two extracted answers. What cannot be compared within bounds is not equal, and the reason says so."""
    left, right = _same_notation(set_of(normalise(answer)), set_of(normalise(reference)))
    return _compare(_last_side(left, right), _named_value(right, left), tolerance)


def _same_notation(answer: str, reference: str) -> tuple[str, str]:
    """Both as intervals, where one of them is an inequality that the other can be compared with."""
    if not (_INEQUALITY.search(answer) or _INEQUALITY.search(reference)):
        return answer, reference
    given, wanted = interval_of(answer), interval_of(reference)
    if given and wanted:
        return (given[1], wanted[1]) if given[0] == wanted[0] else (answer, reference)
    if wanted and _collection(answer):
        return answer, wanted[1]
    if given and is_interval(reference):
        return given[1], reference
    return answer, reference


def _compare(answer: str, reference: str, tolerance: float) -> Verdict:
    if _same_text(answer, reference):
        return Verdict(True, "text")
    number = _reference_number(reference)
    if number is not None and (inside := _IN_BRACKETS.fullmatch(answer)):
        answer = inside[1].strip()
    answer_number = parse_number(answer)
    if answer_number is None and number is not None and number.unit:
        answer_number = _in_unit(answer, number.unit)
    if number is not None and answer_number is not None:
        equal = same_number(answer_number, number, tolerance)
        return Verdict(equal, "number", "" if equal else "a different number")
    if number is None and _is_words(reference):
        return Verdict(False, "text", "different words")
    if bases := _in_bases(answer, reference):
        return bases
    listed = _collections(answer, reference, tolerance) if number is None else None
    if listed is not None:
        return listed
    return _compare_expressions(answer, answer_number, reference, number, tolerance)


def _in_unit(answer: str, unit: str) -> Number | None:
    """`5 m` against a reference in metres: elsewhere a bare letter is a variable."""
    found = _BARE_UNIT.fullmatch(answer)
    number = parse_number(rf"{found[1]}\text{{{found[2]}}}{found[3] or ''}") if found else None
    return number if number is not None and number.unit == unit else None


def _in_bases(answer: str, reference: str) -> Verdict | None:
    """`15_8` is 15 with base 8, or without one; None: neither has a base."""
    given, wanted = _BASE.fullmatch(answer), _BASE.fullmatch(reference)
    if given is None or wanted is None or not (given[2] or wanted[2]):
        return None
    equal = given[1].casefold() == wanted[1].casefold() and (not given[2] or not wanted[2] or given[2] == wanted[2])
    return Verdict(equal, "text", "" if equal else "a different number, or another base")


@lru_cache(maxsize=512)  # the responses of a group share their reference
def _reference_number(reference: str) -> Number | None:
    return parse_number(reference)


def _same_text(answer: str, reference: str) -> bool:
    if answer == reference:
        return True
    left, right = words(answer), words(reference)
    if left == right:
        return bool(left)
    if len(right) > 1 and _WORDS.fullmatch(right) and not _is_product(right, reference):
        return left.casefold() == right.casefold()
    choice, wanted = _CHOICE.fullmatch(left), _CHOICE.fullmatch(right)
    return choice is not None and wanted is not None and choice[1] == wanted[1]


def _is_words(reference: str) -> bool:
    """Words and single letters."""
    text = words(reference)
    return bool(_CHOICE.fullmatch(text) or (_WORDS.fullmatch(text) and not _is_product(text, reference)))


def _is_product(text: str, reference: str) -> bool:
    """Two letters without `\\text` are a product of variables, unless they are "no"."""
    return len(text) == 2 and text.casefold() != "no" and "\\text" not in reference


def _last_side(answer: str, reference: str) -> str:
    """`72` of `x = 72` and `48+24 = 72`, unless the reference is an equation, or several values or `5 = 6` are
    claimed."""
    if "=" not in answer or "=" in reference or "\\begin" in answer:
        return answer
    sides = [side.strip() for side in _EQUALS.split(answer)]
    if len(sides) < 2 or any(_SEVERAL.search(_without_unit(side)) and parse_number(side) is None for side in sides):
        return answer
    values = [number for side in sides if (number := parse_number(side)) is not None]
    if any(not same_number(value, values[-1]) for value in values[:-1]):
        return answer
    return sides[-1]


def _named_value(reference: str, answer: str) -> str:
    """`5` of the reference `x = 5` when the answer does not name the variable."""
    name, equals, value = reference.partition("=")
    return value.strip() if equals and "=" not in answer and "=" not in value and _NAME.fullmatch(name) else reference


def _collections(answer: str, reference: str, tolerance: float) -> Verdict | None:
    """Compare as tuple, interval, set or list; None when the reference is none of these."""
    wanted = _collection(reference)
    if wanted is None or len(wanted.elements) < 2:
        return None
    given = _collection(answer) or _Collection("", "", (answer,))
    given = replace(given, elements=with_both_signs(given.elements))
    if len(given.elements) < 2:
        return Verdict(False, "collection", f"one value where {len(wanted.elements)} are expected")
    if "=" not in reference:
        given = replace(given, elements=without_names(given.elements))
    ordered = wanted.opening in ("(", "[")
    if (given.opening, given.closing) != (wanted.opening, wanted.closing) and (ordered or given.opening in ("(", "[")):
        return Verdict(False, "collection", "different brackets")
    if len(given.elements) != len(wanted.elements) or len(wanted.elements) > MAX_ELEMENTS:
        return Verdict(False, "collection", f"{len(given.elements)} values where {len(wanted.elements)} are expected")
    if ordered:
        pairs = zip(given.elements, wanted.elements, strict=True)
        equal = all(_compare(mine, theirs, tolerance).equal for mine, theirs in pairs)
    else:
        equal = _same_multiset(given.elements, wanted.elements, tolerance)
    return Verdict(equal, "collection", "" if equal else "different values")


def _same_multiset(given: tuple[str, ...], wanted: tuple[str, ...], tolerance: float) -> bool:
    left = list(given)
    for element in wanted:
        match = next((index for index, other in enumerate(left) if _compare(other, element, tolerance).equal), None)
        if match is None:
            return False
        del left[match]
    return True


def _collection(text: str) -> _Collection | None:
    for opening in _BRACKETS:
        closing = next((close for close in (")", "]", r"\}") if text.endswith(close)), "")
        if text.startswith(opening) and closing and (opening == r"\{") == (closing == r"\}"):
            elements = _split(text[len(opening) : -len(closing)])
            if elements is not None:
                return _Collection(opening, closing, elements)
    elements = _split(_CONNECTIVE.sub(", ", text))
    return _Collection("", "", elements) if elements is not None and len(elements) > 1 else None


def _split(text: str) -> tuple[str, ...] | None:
    """Elements between commas or semicolons outside brackets; None for unmatched brackets or an empty element."""
    elements, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif char in ",;" and depth == 0:
            elements.append(text[start:index].strip())
            start = index + 1
    elements.append(text[start:].strip())
    return tuple(elements) if depth == 0 and all(elements) else None


def _compare_expressions(
    answer: str, answer_number: Number | None, reference: str, number: Number | None, tolerance: float
) -> Verdict:
    if number is not None:
        unfinished = _not_a_value(answer)
        if unfinished:
            return Verdict(False, "expression", unfinished)
    try:
        if number is not None:
            equal = _has_value(_without_unit(answer), number, tolerance)
        elif answer_number is not None:
            equal = _has_value(_without_unit(reference), answer_number, tolerance)
        else:
            equal = same_expression(_without_unit(answer), _without_unit(reference))
    except (TooComplexError, NotMathError) as error:
        return Verdict(False, "expression", f"not compared: {error}")
    return Verdict(equal, "expression", "" if equal else "a different value")


def _has_value(expression: str, number: Number, tolerance: float) -> bool:
    """20% is 20 (the unit left out) and 0.2 (the value)."""
    if same_as_number(expression, number, tolerance):
        return True
    return number.percent and same_as_number(expression, Number(number.value / 100), tolerance)


def _without_unit(text: str) -> str:
    """Without a unit or a degree sign at its end."""
    found = _TRAILING_TEXT.search(text)
    return text if found is None or not may_be_unit(found[1] or "") else text[: found.start()]


def _not_a_value(answer: str) -> str:
    """Why an answer cannot be the value of a number, or an empty string."""
    bare = _without_unit(answer)
    if _SEVERAL.search(bare):
        return "not a single value"
    if _ARITHMETIC.search(bare):
        return "arithmetic that is not worked out"
    if _LETTER.search(_COMMAND.sub("", bare)) or "=" in bare:
        return "not a number"
    return ""
