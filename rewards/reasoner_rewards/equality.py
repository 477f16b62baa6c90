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

from reasoner import TEXT_ONLY
from reasoner_rewards.bounds import NotMathError, TooComplexError
from reasoner_rewards.named import Named, is_name, named_values, same_named
from reasoner_rewards.normal import normalise, words
from reasoner_rewards.numbers import Number, may_be_unit, parse_number, same_number
from reasoner_rewards.ratios import is_ratio, same_ratio
from reasoner_rewards.solutions import (
    condition_of,
    interval_of,
    is_increasing,
    is_interval,
    member_of,
    set_of,
    with_both_signs,
    without_names,
)
from reasoner_rewards.symbolic import is_expression, rounds_to, same_as_number, same_expression
from reasoner_rewards.tex import symbols
from reasoner_rewards.units import same_unit, unit_of
from reasoner_rewards.wording import is_words

Means = Literal["text", "number", "collection", "expression", "none"]

MAX_ELEMENTS = 24
"""elements of a list or set that are compared each with each, after those that are plainly equal"""

_POINTS = re.compile("[A-Z]{2,}")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_LABELLED = re.compile(r"\(([A-H])\)(?!.*\([A-H]\)).*", re.DOTALL)
"""a choice with what it says: `(B) 12`"""
_CHOICES = re.compile("(?=[A-H]{2,5}$)A?B?C?D?E?F?G?H?")
"""several choices: `ABD`"""
_BETWEEN_CHOICES = re.compile(r"[\s,&]|(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![\\<>!=:])=(?!=)")
_SEVERAL = re.compile(
    r"[,;<>]|\\(?:pm|mp|le|ge|ne|lt|gt|in|cup|approx|text)(?![A-Za-z])|(?<![A-Za-z])(?:or|and)(?![A-Za-z])"
)
_ARITHMETIC = re.compile(r"[+*]|(?<=[\w)}\]!])\s*-|\\(?:times|cdot|div)(?![A-Za-z])")
_IN_BRACKETS = re.compile(r"\(([^(),;]*)\)")
_INEQUALITY = re.compile(r"[<>]|\\[lg][et](?![A-Za-z])")
_BARE_UNIT = re.compile(r"(.*?[0-9])\s?([A-Za-z][A-Za-z. ]*(?:/[A-Za-z]+)?)(\^\{?[23]\}?)?")
_BASE = re.compile(r"(?=[A-Za-z]*[0-9])([0-9A-Za-z]+)(?:_\{?([2-9]|[12][0-9]|3[0-6])\}?)?")
_COMMAND = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z])e(?![A-Za-z])")
_APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")
_VARIABLES = re.compile(
    r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|omega|phi)(?![A-Za-z])"
)
_LETTER = re.compile(r"[A-Za-z]")
_TRAILING_TEXT = re.compile(
    r"(?:\s*/?\s*\\text\s*\{[^{}0-9]*\}(?:\s*\^\s*\{?\s*-?[1-3]\s*\}?)?)+$|\s*\^\s*\{?\s*\\circ\s*\}?$"
)
_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_CONNECTIVE = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*", re.IGNORECASE
)
_LONG_NUMBER = re.compile(
    r"(?<![0-9,.])([1-9][0-9]{0,2}(?:,[0-9]{3})+)(?=\s*\\(?:sqrt|pi|frac|cdot|times|text)(?![A-Za-z]))"
)
"""a number with thousands separators before a factor: the commas separate no elements"""
_OR = re.compile(r"(?<![A-Za-z])or(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z])")
_BRACKETS = {"(": ")", "[": "]", r"\{": r"\}"}


@dataclass(frozen=True, slots=True)
class EqualityVerdict:
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


def compare(answer: str, reference: str, tolerance: float = 0.0) -> EqualityVerdict:
    """Compare two extracted answers. What cannot be compared within bounds is not equal, and the reason says so."""
    left, right = normalise(answer), normalise(reference)
    if left == right:
        return EqualityVerdict(True, "text")
    if _APPROXIMATELY.search(left + right):
        return _compare_approximate(left, right, tolerance)
    return _compare_sides(left, right, tolerance)


def _same_notation(answer: str, reference: str) -> tuple[str, str]:
    """Both as intervals, where one of them is an inequality that the other can be compared with."""
    answer, reference = condition_of(answer), condition_of(reference)
    if (inside := member_of(answer)) and (_INEQUALITY.search(reference) or is_increasing(reference)):
        answer = inside
    if not (_INEQUALITY.search(answer) or _INEQUALITY.search(reference)):
        return answer, reference
    left, right = interval_of(answer), interval_of(reference)
    if left and right:
        return (left[1], right[1]) if left[0] == right[0] else (answer, reference)
    if right and (_collection(answer) or is_interval(answer)):
        return answer, right[1]
    if left and (is_interval(reference) or is_increasing(reference)):
        return left[1], reference
    return answer, reference


@lru_cache(maxsize=512)  # the responses of a group share their reference
def kind_of(reference: str) -> str:
    """How a reference is read: number, words, ratio, list, expression, or `TEXT_ONLY` when it is not understood."""
    text = normalise(reference)
    if (named := named_values(text)) is not None:
        text = named.values
    if parse_number(text) is not None:
        return "number"
    if _is_only_text(text):
        return "words"
    if is_ratio(text):
        return "ratio"
    listed = _collection_or_union(text)
    if listed is not None and len(listed.elements) > 1:
        return TEXT_ONLY if any(kind_of(element) == TEXT_ONLY for element in listed.elements) else "list"
    return "expression" if is_expression(_without_unit(text)) else TEXT_ONLY


def _compare_sides(answer: str, reference: str, tolerance: float) -> EqualityVerdict:
    """With the names of values looked at first, then as sets, then what is left."""
    if _differs_in_or(answer, reference):
        return EqualityVerdict(False, "collection", "one says `or` where the other does not")
    answered, expected = named_values(answer), named_values(reference)
    if answered and expected and set(answered.names) == set(expected.names):
        equal = same_named(answered, expected, lambda left, right: _compare(left, right, tolerance).equal)
        if equal or len(expected.names) > 1 or len(expected.solutions) > 1:
            return EqualityVerdict(equal, "collection", "" if equal else "different values")
    elif expected and "=" not in answer:
        return _compare_values(
            answer, expected.values, len(expected.names) > 1 and len(expected.solutions) == 1, tolerance
        )
    elif answered and "=" not in reference and len(answered.names) > 1 and len(answered.solutions) == 1:
        return _compare_in_order(answered, reference, tolerance)
    elif answered and "=" not in reference and len(answered.solutions) > 1:
        return _compare_values(answered.values, reference, False, tolerance)
    left, right = _same_notation(set_of(answer), set_of(reference))
    return _compare(_last_side(left, right), right, tolerance)


def _differs_in_or(answer: str, reference: str) -> bool:
    """`x = 2 or y = 3` says less than `x = 2, y = 3`; of one variable the two are the same."""
    names = set(_VARIABLES.findall(_COMMAND.sub(" ", reference)))
    relations = all(re.search(r"[=<>]|\\(?:le|ge|lt|gt)(?![A-Za-z])", text) for text in (answer, reference))
    return relations and len(names) > 1 and bool(_OR.search(answer)) != bool(_OR.search(reference))


def _compare_in_order(answered: Named, reference: str, tolerance: float) -> EqualityVerdict:
    """`x = 3, y = -1` against `(3, -1)` or `3, -1`: in the order in which it names the values, or that of the names."""
    values = answered.solutions[0]
    wanted = _collection(reference)
    if wanted is None or wanted.opening not in ("", "("):
        return EqualityVerdict(False, "collection", "names for values that have none")
    listed = f"({', '.join(wanted.elements)})"
    orders = [", ".join(values.values()), ", ".join(value for _, value in sorted(values.items()))]
    verdicts = [_compare(f"({order})", listed, tolerance) for order in orders]
    return verdicts[0] if verdicts[0].equal else verdicts[1]


def _compare_values(answer: str, reference: str, ordered: bool, tolerance: float) -> EqualityVerdict:
    """Values without names; `ordered` ones stand in the order of their names."""
    if ordered:
        answer, reference = _like(answer, f"({reference})"), f"({reference})"
    left, right = _same_notation(set_of(_like(answer, reference)), set_of(reference))
    return _compare(left, right, tolerance)


def _like(values: str, reference: str) -> str:
    """A bare list in round brackets where the reference is a tuple."""
    bare, wanted = _collection(values), _collection(reference)
    return f"({values})" if bare and not bare.opening and wanted and wanted.opening == "(" else values


def _compare_approximate(answer: str, reference: str, tolerance: float) -> EqualityVerdict:
    r"""`22/7 \approx 3.14` is either of the two; the second must be the rounding of the first."""
    sides = [[side.strip() for side in _APPROXIMATELY.split(text) if side.strip()] for text in (answer, reference)]
    if any(len(text) > 2 or (len(text) == 2 and not _is_rounding(*text)) for text in sides) or not all(sides):
        return EqualityVerdict(False, "expression", "not a single value")
    verdicts = [_compare_sides(left, right, tolerance) for left in sides[0] for right in sides[1]]
    return next((verdict for verdict in verdicts if verdict.equal), verdicts[-1])


def _is_rounding(exact: str, rounded: str) -> bool:
    """Whether a decimal is the correct rounding of a value, or the value is only a name."""
    last = _EQUALS.split(exact)[-1].strip()
    number = parse_number(rounded)
    if number is None or is_name(last):
        return number is not None
    try:
        return rounds_to(_without_unit(last), number)
    except (TooComplexError, NotMathError):
        return False


def _compare(answer: str, reference: str, tolerance: float) -> EqualityVerdict:
    if _same_text(answer, reference):
        return EqualityVerdict(True, "text")
    ratio = same_ratio(answer, reference, lambda left, right: _compare(left, right, tolerance).equal)
    if ratio is not None:
        return EqualityVerdict(ratio, "collection", "" if ratio else "a different ratio or time")
    number = _reference_number(reference)
    if number is not None and (inside := _IN_BRACKETS.fullmatch(answer)):
        answer = inside[1].strip()
    answer_number = parse_number(answer)
    if answer_number is None and number is not None and number.unit:
        answer_number = _in_unit(answer, number)
    if number is None and answer_number is not None and answer_number.unit:
        number = _in_unit(reference, answer_number)
    if number is not None and answer_number is not None:
        equal = same_number(answer_number, number, tolerance)
        return EqualityVerdict(equal, "number", "" if equal else "a different number")
    if number is None and _is_only_text(reference):
        return EqualityVerdict(False, "text", "different words")
    if bases := _in_bases(answer, reference):
        return bases
    listed = _collections(answer, reference, tolerance) if number is None else None
    if listed is not None:
        return listed
    return _compare_expressions(answer, answer_number, reference, number, tolerance)


def _in_unit(answer: str, reference: Number) -> Number | None:
    """`5 m` against a reference in metres: elsewhere a bare letter is a variable."""
    match = _BARE_UNIT.fullmatch(answer)
    number = parse_number(rf"{match[1]}\text{{{match[2]}}}{match[3] or ''}") if match else None
    return number if number is not None and number.unit == reference.unit else None


def _in_bases(answer: str, reference: str) -> EqualityVerdict | None:
    """`15_8` is 15 with base 8, or without one; None: neither has a base."""
    answered, expected = _BASE.fullmatch(answer), _BASE.fullmatch(reference)
    if answered is None or expected is None or not (answered[2] or expected[2]):
        return None
    equal = answered[1].casefold() == expected[1].casefold() and (
        not answered[2] or not expected[2] or answered[2] == expected[2]
    )
    return EqualityVerdict(equal, "text", "" if equal else "a different number, or another base")


@lru_cache(maxsize=512)  # the responses of a group share their reference
def _reference_number(reference: str) -> Number | None:
    return parse_number(reference)


def _same_text(answer: str, reference: str) -> bool:
    if answer == reference:
        return True
    left, right = words(answer), words(reference)
    if left == right:
        return bool(left)
    if is_words(reference):
        return left.casefold() == right.casefold()
    if symbols(answer) == symbols(reference):
        return True
    choice, wanted = _CHOICE.fullmatch(left) or _LABELLED.fullmatch(left), _CHOICE.fullmatch(right)
    if choice is not None and wanted is not None:
        return choice[1] == wanted[1]
    return bool(_CHOICES.fullmatch(right)) and "," in left and _BETWEEN_CHOICES.sub("", left) == right


def _is_only_text(reference: str) -> bool:
    """Words, a single capital, and names of points: nothing else can equal them."""
    text = words(reference)
    return bool(_CHOICE.fullmatch(text) or _POINTS.fullmatch(text)) or is_words(reference)


def _last_side(answer: str, reference: str) -> str:
    """`72` of `x = 72` and `48+24 = 72`, unless the reference is an equation, or several values or `5 = 6` are
    claimed. `2x = 72` is an equation in x and not a way to write 72."""
    if "=" not in answer or "=" in reference or "\\begin" in answer:
        return answer
    sides = [side.strip() for side in _EQUALS.split(answer)]
    if len(sides) < 2 or any(_SEVERAL.search(_without_unit(side)) and parse_number(side) is None for side in sides):
        return answer
    values = [number for side in sides if (number := parse_number(side)) is not None]
    if any(not same_number(value, values[-1]) for value in values[:-1]):
        return answer
    return sides[-1] if all(map(_names_value, sides[:-1])) else answer


def _names_value(side: str) -> bool:
    """A name, words, something without variables, or a quantity made of several (`m+n`)."""
    return is_name(side) or r"\text" in side or len(set(_VARIABLES.findall(_COMMAND.sub(" ", side)))) != 1


def _collections(answer: str, reference: str, tolerance: float) -> EqualityVerdict | None:
    """Compare as tuple, interval, union, set or list; None when the reference is none of these."""
    wanted = _collection_or_union(reference)
    if wanted is None or len(wanted.elements) < 2:
        return None
    answered = _collection_or_union(answer) or _Collection("", "", (answer,))
    if wanted.opening == r"\cup" != answered.opening:
        return None  # the same set in other words, such as a complement
    if len(answered.elements) < 2:
        return EqualityVerdict(False, "collection", f"one value where {len(wanted.elements)} are expected")
    if "=" not in reference:
        answered = replace(answered, elements=without_names(answered.elements))
    elif "=" not in answer:
        wanted = replace(wanted, elements=without_names(wanted.elements))
    ordered = wanted.opening in ("(", "[")
    if (answered.opening, answered.closing) != (wanted.opening, wanted.closing) and (
        ordered or answered.opening in ("(", "[")
    ):
        return EqualityVerdict(False, "collection", "different brackets")
    if len(answered.elements) != len(wanted.elements):
        return EqualityVerdict(
            False, "collection", f"{len(answered.elements)} values where {len(wanted.elements)} are expected"
        )
    if ordered:
        pairs = zip(answered.elements, wanted.elements, strict=True)
        equal = all(_compare(left, right, tolerance).equal for left, right in pairs)
    else:
        equal = _same_multiset(answered.elements, wanted.elements, tolerance)
    return EqualityVerdict(equal, "collection", "" if equal else "different values")


def _collection_or_union(text: str) -> _Collection | None:
    r"""As `_collection`; with both signs of a `\pm`, and the intervals of a union."""
    if r"\cup" in text and is_interval(text):
        return _Collection(r"\cup", r"\cup", tuple(part.strip() for part in text.split(r"\cup")))
    collection = _collection(text)
    if r"\pm" not in text:
        return collection
    if collection is None or collection.opening in ("(", "["):
        collection = _Collection("", "", (text,))
    return replace(collection, elements=with_both_signs(collection.elements))


def _same_multiset(answered: tuple[str, ...], expected: tuple[str, ...], tolerance: float) -> bool:
    left, rest = list(answered), []
    for element in expected:
        if element in left:
            left.remove(element)
        else:
            rest.append(element)
    if len(rest) > MAX_ELEMENTS:
        return False
    for element in rest:
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
    elements = _split(_CONNECTIVE.sub(", ", _LONG_NUMBER.sub(lambda number: number[1].replace(",", ""), text)))
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
) -> EqualityVerdict:
    if number is not None:
        unfinished = _not_a_value(answer)
        if unfinished:
            return EqualityVerdict(False, "expression", unfinished)
    units = _split_unit(answer)[1], _split_unit(reference)[1] or (number.unit if number else "")
    if all(units) and not same_unit(*units):
        return EqualityVerdict(False, "expression", "another unit")
    try:
        if number is not None:
            equal = _has_value(_without_unit(answer), number, tolerance)
        elif answer_number is not None:
            equal = _has_value(_without_unit(reference), answer_number, tolerance)
        else:
            equal = same_expression(_without_unit(answer), _without_unit(reference))
    except (TooComplexError, NotMathError) as error:
        return EqualityVerdict(False, "expression", f"not compared: {error}")
    return EqualityVerdict(equal, "expression", "" if equal else "a different value")


def _has_value(expression: str, number: Number, tolerance: float) -> bool:
    """20% is 20 (the unit left out) and 0.2 (the value)."""
    if same_as_number(expression, number, tolerance):
        return True
    return number.percent and same_as_number(expression, Number(number.value / 100), tolerance)


def _without_unit(text: str) -> str:
    """Without a unit or a degree sign at its end."""
    return _split_unit(text)[0]


def _split_unit(text: str) -> tuple[str, str]:
    """The value and the unit at its end; the unit is empty when there is none."""
    match = None if _TRIGONOMETRIC.search(text) else _TRAILING_TEXT.search(text)
    if match is None or not all(map(may_be_unit, _IN_TEXT.findall(match.group()))):
        return text, ""
    return text[: match.start()], unit_of(match.group().replace(r"\circ", r"\text{degree}"))


def _not_a_value(answer: str) -> str:
    """Why an answer cannot be the value of a number, or an empty string."""
    bare = _without_unit(answer)
    if _SEVERAL.search(bare) or bare.startswith("["):
        return "not a single value"
    if _ARITHMETIC.search(bare):
        return "arithmetic that is not worked out"
    if _LETTER.search(_COMMAND.sub("", bare)) or "=" in bare:
        return "not a number"
    return ""
