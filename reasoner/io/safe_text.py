"""Text that others wrote, made safe: to be stored (`storable`), and to be shown on a terminal (`printable`)."""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

V = TypeVar("V")

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, delete, C1: escapes, backspace, carriage return
    "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"  # what turns the direction of text, and breaks lines
    "\ud800-\udfff]"
)


def storable(value: V) -> V:
    """A text, or a JSON value with texts in it, as UTF-8 can hold it: half a surrogate pair becomes its escape.

    >>> storable("half \\ud800 a pair")
    'half \\\\ud800 a pair'

    Such a text comes from a JSON escape, or from a file name; Parquet, JSON and terminals refuse it.
    """
    return cast(V, _storable(value))


def storable_json(text: str) -> str:
    """A text of JSON that was not escaped (`ensure_ascii=False`), in which the texts become `storable`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _HALF_PAIR.sub(lambda match: "\\" + _escape(match), text)
    return text


def printable(text: str) -> str:
    """A text as a terminal may show it, or a file that people `cat`: control characters but tab and newline, and those
    that turn the direction of text, become their escapes.

    >>> printable("red \\x1b[31m")
    'red \\\\u001b[31m'

    JSON and TOML stay what they are: these are their escapes, too.
    """
    return _CONTROL.sub(_escape, text.replace("\r\n", "\n"))


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return _HALF_PAIR.sub(_escape, value)
        return value
    if isinstance(value, dict):
        return {_storable(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return tuple(map(_storable, value)) if isinstance(value, tuple) else value


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
