"""Ratios and times of day: `3:2` is `6:4` and `3 to 2`, `12:30` is neither `2:5` nor a division."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import gcd

from reasoner_rewards.normal import words
from reasoner_rewards.numbers import parse_number

PartsEqual = Callable[[str, str], bool]

_TO = re.compile(r"(?<=[0-9A-Za-z)}])\s*(?:\\text\s*\{\s*to\s*\}|(?<![A-Za-z])to(?![A-Za-z]))\s*")
_TERM = r"[^\s:A-Za-z]*[0-9A-Za-z)}]"
_TERMS_TO = re.compile(rf"{_TERM}(?:{_TO.pattern}{_TERM})+")
_TIME = re.compile(r"([0-9]{1,2}):([0-5][0-9])(?::([0-5][0-9]))?")
_CLOCK = re.compile(r"([0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?) ?([ap])\.?m\.?", re.IGNORECASE)


def as_ratio(text: str) -> str:
    """`3:2` of `3 to 2`."""
    return _TO.sub(":", text) if _TERMS_TO.fullmatch(text) else text


def is_ratio(text: str) -> bool:
    """Whether a normalised text is several terms with colons between them."""
    text = as_ratio(text)
    return ":" in text and all(part.strip() for part in text.split(":")) and "=" not in text and "\\{" not in text


def same_ratio(answer: str, reference: str, same: PartsEqual) -> bool | None:
    """Whether both are the same ratio or time; None: the reference is neither.

    Args:
        same: whether two terms are equal.
    """
    if not is_ratio(reference):
        return False if is_ratio(answer) and parse_number(reference) is not None else None
    ratio, reference = as_ratio(answer), as_ratio(reference)
    clock, wanted_clock = _CLOCK.fullmatch(words(ratio)), _CLOCK.fullmatch(words(reference))
    if wanted_clock is not None:
        return clock is not None and _same_clock(clock, wanted_clock)
    if clock is not None:
        ratio = clock[1]
    if not is_ratio(ratio):
        return False
    parts, reference_parts = ([part.strip() for part in text.split(":")] for text in (ratio, reference))
    if len(parts) != len(reference_parts):
        return False
    if all(map(same, parts, reference_parts)):
        return True
    if _is_time(reference) or _is_time(ratio):
        return False
    crossed = [
        (rf"({left})\cdot({reference_parts[0]})", rf"({right})\cdot({parts[0]})")
        for left, right in zip(parts, reference_parts, strict=True)
    ]
    numbers = [parse_number(term) for term in (*parts, *reference_parts)]
    if None not in numbers:
        values = [number.value for number in numbers if number is not None]
        left, right = values[: len(parts)], values[len(parts) :]
        return all(left) and all(right) and len({x / y for x, y in zip(left, right, strict=True)}) == 1
    return all(same(one, other) for one, other in crossed[1:])


def _same_clock(answer: re.Match[str], reference: re.Match[str]) -> bool:
    return answer[1].lstrip("0") == reference[1].lstrip("0") and answer[2].lower() == reference[2].lower()


def _is_time(text: str) -> bool:
    """Hours and minutes, rather than a ratio in lowest terms."""
    match = _TIME.fullmatch(text.replace(" ", ""))
    return match is not None and (gcd(int(match[1]), int(match[2])) != 1 or match[2].startswith("0"))
