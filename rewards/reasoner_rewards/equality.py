r"""Whether a final answer equals a reference answer: text, then numbers, then collections, then LaTeX.

The reference decides what counts. Against a number, an answer must be a finished value: sums and products of numbers
are not (`48+24` for `72`: a policy would learn to box the exercise), powers, roots and fractions are. Against words,
only words count. Two values at once (`5 or 6`, `\pm 5`) equal only a reference that lists the same ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from reasoner_rewards.normal import normalise, words
from reasoner_rewards.numbers import Number, parse_number, same_number
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
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z]")
_TRAILING_TEXT = re.compile(r"\s*\\text\s*\{[^{}0-9]*\}(?:\s*\^\s*\{?[23]\}?)?$|\s*\^\s*\{?\s*\\circ\s*\}?$")
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


def compare(answer: str, reference: str) -> Verdict:
    """Compare two extracted answers. What cannot be compared within bounds is not equal, and the reason says so."""
    left, right = normalise(answer), normalise(reference)
    return _compare(_last_side(left, right), _named_value(right, left))


def _compare(answer: str, reference: str) -> Verdict:
    if _same_text(answer, reference):
        return Verdict(True, "text")
    number = _reference_number(reference)
    if number is not None and (inside := _IN_BRACKETS.fullmatch(answer)):
        answer = inside[1].strip()
    answer_number = parse_number(answer)
    if number is not None and answer_number is not None:
        equal = same_number(answer_number, number)
        return Verdict(equal, "number", "" if equal else "a different number")
    if number is None and _is_words(reference):
        return Verdict(False, "text", "different words")
    listed = _collections(answer, reference) if number is None else None
    if listed is not None:
        return listed
    return _compare_expressions(answer, answer_number, reference, number)


@lru_cache(maxsize=512)  # the responses of a group share their reference
def _reference_number(reference: str) -> Number | None:
    return parse_number(reference)


def _same_text(answer: str, reference: str) -> bool:
    if answer == reference:
        return True
    left, right = words(answer), words(reference)
    if left == right:
        return bool(left)
    if len(right) > 1 and _WORDS.fullmatch(right):
        return left.casefold() == right.casefold()
    choice, wanted = _CHOICE.fullmatch(left), _CHOICE.fullmatch(right)
    return choice is not None and wanted is not None and choice[1] == wanted[1]


def _is_words(reference: str) -> bool:
    """Words and single letters. Two letters without `\\text` are a product of variables, unless they are "no"."""
    text = words(reference)
    if _CHOICE.fullmatch(text):
        return True
    product = len(text) == 2 and text.casefold() != "no" and "\\text" not in reference
    return _WORDS.fullmatch(text) is not None and not product


def _last_side(answer: str, reference: str) -> str:
    """`72` of `x = 72` and `48+24 = 72`, unless the reference is an equation, or several values or `5 = 6` are
    claimed."""
    if "=" not in answer or "=" in reference or "\\begin" in answer:
        return answer
    sides = [side.strip() for side in _EQUALS.split(answer)]
    if len(sides) < 2 or any(
        _SEVERAL.search(_TRAILING_TEXT.sub("", side)) and parse_number(side) is None for side in sides
    ):
        return answer
    first, last = parse_number(sides[0]), parse_number(sides[-1])
    if first is not None and last is not None and not same_number(first, last):
        return answer
    return sides[-1]


def _named_value(reference: str, answer: str) -> str:
    """`5` of the reference `x = 5` when the answer does not name the variable."""
    name, equals, value = reference.partition("=")
    return value.strip() if equals and "=" not in answer and "=" not in value and _NAME.fullmatch(name) else reference


def _collections(answer: str, reference: str) -> Verdict | None:
    """Compare as tuple, interval, set or list; None when the reference is none of these."""
    wanted = _collection(reference)
    if wanted is None or len(wanted.elements) < 2:
        return None
    given = _collection(answer)
    if given is None:
        return Verdict(False, "collection", f"one value where {len(wanted.elements)} are expected")
    ordered = wanted.opening in ("(", "[")
    if (given.opening, given.closing) != (wanted.opening, wanted.closing) and (ordered or given.opening in ("(", "[")):
        return Verdict(False, "collection", "different brackets")
    if len(given.elements) != len(wanted.elements) or len(wanted.elements) > MAX_ELEMENTS:
        return Verdict(False, "collection", f"{len(given.elements)} values where {len(wanted.elements)} are expected")
    if ordered:
        equal = all(_compare(mine, theirs).equal for mine, theirs in zip(given.elements, wanted.elements, strict=True))
    else:
        equal = _same_multiset(given.elements, wanted.elements)
    return Verdict(equal, "collection", "" if equal else "different values")


def _same_multiset(given: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    left = list(given)
    for element in wanted:
        match = next((index for index, other in enumerate(left) if _compare(other, element).equal), None)
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


def _compare_expressions(answer: str, answer_number: Number | None, reference: str, number: Number | None) -> Verdict:
    if number is not None:
        unfinished = _not_a_value(answer)
        if unfinished:
            return Verdict(False, "expression", unfinished)
    try:
        if number is not None:
            equal = same_as_number(_TRAILING_TEXT.sub("", answer), number)
        elif answer_number is not None:
            equal = same_as_number(_TRAILING_TEXT.sub("", reference), answer_number)
        else:
            equal = same_expression(_TRAILING_TEXT.sub("", answer), _TRAILING_TEXT.sub("", reference))
    except (TooComplexError, NotMathError) as error:
        return Verdict(False, "expression", f"not compared: {error}")
    return Verdict(equal, "expression", "" if equal else "a different value")


def _not_a_value(answer: str) -> str:
    """Why an answer cannot be the value of a number, or an empty string."""
    bare = _TRAILING_TEXT.sub("", answer)
    if _SEVERAL.search(bare):
        return "not a single value"
    if _ARITHMETIC.search(bare):
        return "arithmetic that is not worked out"
    if _LETTER.search(_COMMAND.sub("", bare)) or "=" in bare:
        return "not a number"
    return ""
