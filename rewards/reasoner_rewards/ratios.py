"""Ratios and times of day: `3:2` is `6:4` and `3 to 2`, `12:30` is neither `2:5` nor a division."""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

from reasoner_rewards.normal import words
from reasoner_rewards.numbers import parse_number

_TO = re.compile(r"(?<=[0-9A-Za-z)}])\s*(?:\\text\s*\{\s*to\s*\}|(?<![A-Za-z])to(?![A-Za-z]))\s*")
_TIME = re.compile(r"([0-9]{1,2}):([0-5][0-9])(?::([0-5][0-9]))?")
_CLOCK = re.compile(r"([0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?) ?([ap])\.?m\.?", re.IGNORECASE)


def is_ratio(text: str) -> bool:
    """Whether a normalised text is several terms with colons between them."""
    return ":" in text and all(part.strip() for part in text.split(":")) and "=" not in text and "\\{" not in text


def same_ratio(answer: str, reference: str) -> bool | None:
    """Whether both are the same ratio or time; None: neither, or terms that are no numbers, which text compares."""
    if not is_ratio(reference):
        return False if is_ratio(answer) and parse_number(reference) is not None else None
    given = _TO.sub(":", answer)
    clock, wanted_clock = _CLOCK.fullmatch(words(given)), _CLOCK.fullmatch(words(reference))
    if wanted_clock is not None:
        return clock is not None and _same_clock(clock, wanted_clock)
    if clock is not None:
        given = clock[1]
    if not is_ratio(given):
        return False
    mine, theirs = _terms(given), _terms(reference)
    if mine is None or theirs is None:
        return None
    if mine == theirs:
        return True
    if len(mine) != len(theirs) or _is_time(reference) or _is_time(given) or not all(mine) or not all(theirs):
        return False
    return len({left / right for left, right in zip(mine, theirs, strict=True)}) == 1


def _same_clock(answer: re.Match[str], reference: re.Match[str]) -> bool:
    return answer[1].lstrip("0") == reference[1].lstrip("0") and answer[2].lower() == reference[2].lower()


def _terms(text: str) -> list[Fraction] | None:
    numbers = [parse_number(part.strip()) for part in text.split(":")]
    return None if None in numbers else [number.value for number in numbers if number is not None]


def _is_time(text: str) -> bool:
    """Hours and minutes, rather than a ratio in lowest terms."""
    found = _TIME.fullmatch(text.replace(" ", ""))
    return found is not None and (gcd(int(found[1]), int(found[2])) != 1 or found[2].startswith("0"))
