r"""How a solution may be written: `x = 1 or x = 2` for `1, 2`, `x \in [0,1)` for `[0,1)`, `0 \le x < 1` for `[0,1)`.

A pair in round brackets is a point as well as an interval. `1 < x < 2` equals it only when the reference is the
inequality: then the pair can only be an interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasoner_rewards.symbolic import value_of

_NAME = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|omega|phi|rho|tau|sigma))(?:_\{?[A-Za-z0-9]+\}?)?"
)
_MEMBER = re.compile(rf"{_NAME}(?:\([a-z]\))?\s*\\in(?![A-Za-z])\s*(?P<rest>.+)", re.DOTALL)
_BUILDER = re.compile(
    rf"\\\{{\s*{_NAME}\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid(?![A-Za-z])|\\vert(?![A-Za-z])|\||:)(?P<condition>.+)\\\}}",
    re.DOTALL,
)
_BOTH_SIGNS = re.compile(r"[A-Za-z]\s*=\s*(?P<rest>[^=]*\\pm(?![A-Za-z])[^=]*)")
_NAMED = re.compile(r"(?P<name>[A-Za-z])(?:_\{?[0-9]+\}?)?\s*=\s*(?P<value>[^=]+)")
_RELATION = re.compile(r"\\(?:le|ge|lt|gt)(?![A-Za-z])|[<>]")
_OR = re.compile(r"\s*(?:\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z]))\s*")
_AND = re.compile(r"\s*(?:,|\\text\s*\{\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z]))\s*")
_SIGNS = re.compile(r"\\([pm])[pm](?![A-Za-z])")
_INTERVAL = re.compile(r"[(\[](?:(?!\\\{)[^()\[\],])+,(?:(?!\\\{)[^()\[\],])+[)\]]")
_VARIABLE = re.compile(rf"{_NAME}(?:\({_NAME}\))?|\|{_NAME}\|")

Bound = tuple[str, bool]
"""the value, and whether it belongs to the interval"""


def set_of(text: str) -> str:
    r"""`[0,1)` of `x \in [0,1)`, `\pm 5` of `x = \pm 5`; a text that names no set, or one that may be a point, as it
    is."""
    if both := _BOTH_SIGNS.fullmatch(text):
        return both["rest"]
    member = _MEMBER.fullmatch(text)
    return member["rest"] if member and (member["rest"].startswith(r"\{") or is_interval(member["rest"])) else text


def condition_of(text: str) -> str:
    r"""`x > 2` of `\{x \mid x > 2\}` and of `\{x \in \mathbb{R} : x > 2\}`; any other text as it is."""
    builder = _BUILDER.fullmatch(text)
    return builder["condition"].strip() if builder else text


def member_of(text: str) -> str:
    r"""`(0,1)` of `x \in (0,1)`; empty for anything else."""
    member = _MEMBER.fullmatch(text)
    return member["rest"] if member and all(map(_INTERVAL.fullmatch, member["rest"].split(r"\cup"))) else ""


def without_names(elements: Sequence[str]) -> tuple[str, ...]:
    """`1`, `2` of `x = 1`, `x = 2` and of `x_1 = 1`, `x_2 = 2`; elements that name different things as they are."""
    matches = [_NAMED.fullmatch(element) for element in elements]
    names = {match["name"] for match in matches if match}
    if len(names) != 1 or matches[0] is None:
        return tuple(elements)
    return tuple(match["value"] if match else element for match, element in zip(matches, elements, strict=True))


def with_both_signs(elements: Sequence[str]) -> tuple[str, ...]:
    r"""`2+\sqrt{3}`, `2-\sqrt{3}` of `2 \pm \sqrt{3}`; the signs of one element go together."""
    return tuple(
        _SIGNS.sub(lambda match, sign=sign: sign if match[1] == "p" else "+-"[sign == "+"], element)  # type: ignore[misc]
        .strip()
        .removeprefix("+")
        .strip()
        for element in elements
        for sign in ("+-" if _SIGNS.search(element) else "+")
    )


def is_increasing(text: str) -> bool:
    """Whether a pair in round brackets can be an interval: its first number is smaller."""
    match = _INTERVAL.fullmatch(text)
    if match is None or "," not in text:
        return False
    low, high = (value_of(part.strip()) for part in text[1:-1].split(","))
    return low is not None and high is not None and low < high


def is_interval(text: str) -> bool:
    """Whether it can be nothing but an interval or a union of some."""
    parts = [part.strip() for part in text.split(r"\cup")]
    if not all(map(_INTERVAL.fullmatch, parts)):
        return False
    return len(parts) > 1 or not (parts[0][0] == "(" and parts[0][-1] == ")") or r"\infty" in text


def interval_of(inequality: str) -> tuple[str, str] | None:
    r"""The variable and the interval of an inequality in one: `x`, `[0,1)` of `0 \le x < 1` or of `x < 1, x \ge 0`;
    `or` makes a union. None for anything else."""
    pieces = [_piece(part) for part in _OR.split(inequality)]
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces) or len({variable for variable, _ in known}) != 1:
        return None
    return known[0][0], r"\cup".join(interval for _, interval in known)


def _piece(text: str) -> tuple[str, str] | None:
    """A chain, or two of them that bound the variable from both sides."""
    lower: list[Bound] = []
    upper: list[Bound] = []
    variables = set()
    for chain in _AND.split(text):
        operands = [operand.strip() for operand in _RELATION.split(chain)]
        relations = [relation.lstrip("\\") for relation in _RELATION.findall(chain)]
        place = next((index for index, operand in enumerate(operands) if _VARIABLE.fullmatch(operand)), None)
        directions = {relation[0] in "<l" for relation in relations}
        if place is None or len(operands) not in (2, 3) or len(directions) != 1 or (len(operands) == 3 and place != 1):
            return None
        variables.add(operands[place])
        rising = directions == {True}
        for index, operand in enumerate(operands):
            if index != place:
                bound = (operand, relations[min(index, place)] in ("le", "ge"))
                (lower if (index < place) == rising else upper).append(bound)
    if len(variables) != 1 or len(lower) > 1 or len(upper) > 1 or not all(value for value, _ in lower + upper):
        return None
    if not lower and "|" in next(iter(variables)):
        return None  # `|x| < 2` bounds x from both sides
    (low, closed), (high, shut) = (*lower, (r"-\infty", False))[0], (*upper, (r"\infty", False))[0]
    return variables.pop(), f"{'[' if closed else '('}{low},{high}{']' if shut else ')'}"
