"""Plain values as JSON: what may pass between the model's program, the tests and the process that compares.

    None, bool, text, short int, finite float    themselves
    other int, float                             ["i", "-1f"] (hexadecimal: no limit on digits), ["f", "nan"]
    complex, bytes, range                        ["c", re, im], ["b", "hex"], ["r", start, stop, step]
    Decimal, Fraction                            ["D", "1.50"], ["Q", numerator, denominator]
    date, time, datetime, timedelta, timezone    ["date", year, month, day] and so on, numbers only
    keys, values, items of a dict                ["keys", ...], ["values", ...], ["items", ...]
    list, tuple, set, frozenset                  ["l", ...], ["t", ...], ["s", ...], ["z", ...]
    dict                                         ["d", key, value, key, value, ...]

A value of a subclass is written as its base type, whatever operators it defines. Decoding makes builtins and nothing
else, so that whoever compares decoded values never runs code of the program, and is bounded (`Bounds`): what a program
makes slow to read is not read. What is neither plain nor made of plain
values goes through `other`: the program's side keeps it and writes a handle.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter

TYPE_CHECKING = False  # `typing` would be a third of the time that a program takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Other = Callable[[Any], Any]

MAX_ANSWER = 2**24
"""bytes of the line that holds a value"""
MAX_LISTS = 2**19
"""lists in that line, as JSON has them: empty ones take thirty times the memory of their text"""
MAX_DIGITS = 2**12
"""of a Decimal, or of a Fraction's parts in hexadecimal: what is made of longer ones takes quadratic time"""
MAX_DEPTH = 64
"""levels of nesting"""
SHORT = 2**53
"""ints below it are written as JSON numbers"""
MAX_EQUAL_HASHES = 16
"""members of a set or dict with one hash: more were made to collide, and each is compared with all of them"""


class CodecError(ValueError):
    """Not a plain value, or not the encoding of one."""


class NotPlainError(CodecError):
    """A value that has no encoding, or one that the other side does not know."""


class Bounds:
    """What decoding may cost."""

    def __init__(self, end: float = math.inf, members: float = math.inf) -> None:
        """Bound the time and the tables of hashes.

        Args:
            end: when to give up, on the clock `time.monotonic`; looked at before every value that is made of others.
            members: of a set or dict; numbers can be chosen so that each one meets all before it in the table, which
                takes quadratic time, and nothing can interrupt it.
        """
        self.end, self.members = end, members

    def check(self, members: int = 0) -> None:
        """Raises CodecError: a bound is reached."""
        if members > self.members:
            raise CodecError(f"a set or dict of {members} members, more than can be expected")
        if time.monotonic() > self.end:
            raise CodecError("it takes too long to read")


UNBOUNDED = Bounds()


def refuse(value: Any) -> Any:
    """The `other` of a side that has no further values."""
    raise NotPlainError(f"not a plain value: {type(value).__name__}")


def encode(value: Any, other: Other = refuse, depth: int = MAX_DEPTH) -> Any:
    """The value as JSON data; `other(value)` for what is not plain.

    Raises:
        CodecError: nested too deeply, or `other` refuses.
    """
    if depth == 0:
        raise CodecError(f"nested deeper than {MAX_DEPTH} levels")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        value = int.__pos__(value)
        return value if -SHORT < value < SHORT else ["i", f"{value:x}"]
    if isinstance(value, float):
        value = float.__pos__(value)
        return value if math.isfinite(value) else ["f", repr(value)]
    if isinstance(value, str):
        return str.__str__(value)
    return _encode_composed(value, other, depth)


_COLLECTIONS: tuple[tuple[Any, str], ...] = ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "z"))


_CLOCK = "hour", "minute", "second", "microsecond", "fold"
_LIBRARY: dict[str, dict[str, tuple[str, Callable[[Any], list[Any]]]]] = {
    "decimal": {"Decimal": ("D", lambda value: [_short(str(value))])},
    "fractions": {
        "Fraction": ("Q", lambda value: [_short(f"{part:x}") for part in (value.numerator, value.denominator)])
    },
    "datetime": {
        "date": ("date", lambda value: [value.year, value.month, value.day]),
        "time": ("time", lambda value: [*(getattr(value, part) for part in _CLOCK), _zone(value)]),
        "datetime": (
            "datetime",
            lambda value: [*(getattr(value, part) for part in ("year", "month", "day", *_CLOCK)), _zone(value)],
        ),
        "timedelta": ("timedelta", lambda value: _parts_of_delta(value)),
        "timezone": ("timezone", lambda value: _parts_of_delta(value.utcoffset(None))),
    },
}
"""the value types of modules that a program may not have imported: tag and parts of a value"""


def _library(kind: Any) -> tuple[str, Callable[[Any], list[Any]]] | None:
    """Of exactly this type; a class that only says that it comes from there is none."""
    found = _LIBRARY.get(kind.__module__, {}).get(kind.__name__) if isinstance(kind.__module__, str) else None
    if found is None or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
        return None
    return found


def _parts_of_delta(delta: Any) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _zone(value: Any) -> Any:
    """Of a time: as a timezone, None for none."""
    zone = value.tzinfo
    if zone is None:
        return None
    if type(zone) is not sys.modules["datetime"].timezone:
        raise NotPlainError(f"not a plain value: a time in {type(zone).__name__}")
    return _parts_of_delta(zone.utcoffset(None))


def _short(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise CodecError(f"a number of more than {MAX_DIGITS} digits")
    return text


_VALUES = (complex, bytes, range)
VIEWS: dict[Any, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def is_value(value: Any) -> bool:
    """Whether it is of one of the immutable types above, exactly, and not made of other values."""
    kind = type(value)
    return kind in _VALUES or _library(kind) is not None


def _encode_composed(value: Any, other: Other, depth: int) -> Any:
    if isinstance(value, complex):
        return ["c", *(encode(part) for part in (value.real, value.imag))]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if isinstance(value, range):
        return ["r", *(encode(part) for part in (value.start, value.stop, value.step))]
    for kind, tag in _COLLECTIONS:
        if isinstance(value, kind):
            return [tag, *(encode(each, other, depth - 1) for each in kind.__iter__(value))]
    if isinstance(value, dict):
        items = (part for pair in dict.items(value) for part in pair)
        return ["d", *(encode(part, other, depth - 1) for part in items)]
    if type(value) in VIEWS:
        return [VIEWS[type(value)], *(encode(each, other, depth - 1) for each in value)]
    if (library := _library(type(value))) is not None:
        tag, parts = library
        return [tag, *parts(value)]
    return other(value)


def decode(data: Any, other: Other = refuse, bounds: Bounds = UNBOUNDED, depth: int = MAX_DEPTH) -> Any:
    """The value of JSON data; `other(data)` for lists whose tag is not one of the table above.

    Raises:
        CodecError: it is not what `encode` writes, or beyond the bounds.
    """
    if depth == 0:
        raise CodecError(f"nested deeper than {MAX_DEPTH} levels")
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise CodecError(f"not an encoded value: {_named(data)}")
    bounds.check()
    tag, parts = data[0], data[1:]
    if tag not in _KINDS:
        return other(data)
    try:
        return _KINDS[tag](parts, other, bounds, depth - 1)
    except CodecError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"not an encoded value: {error}") from None


def _named(data: Any) -> str:
    """What it is, without reading all of it."""
    return f"{data!r:.40}" if isinstance(data, str) or not data else f"a {type(data).__name__} of {len(data)}"


def _members(parts: list[Any], other: Other, bounds: Bounds, depth: int) -> list[Any]:
    if {list, dict}.isdisjoint(map(type, parts)):
        return parts
    return [decode(part, other, bounds, depth) for part in parts]


def hashed(members: list[Any], bounds: Bounds = UNBOUNDED) -> list[Any]:
    """The members, if they are not made to collide."""
    bounds.check(len(members))
    hashes = Counter(map(hash, members))
    if hashes and max(hashes.values()) > MAX_EQUAL_HASHES:
        raise CodecError("members with equal hashes")
    return members


def _set(parts: list[Any], other: Other, bounds: Bounds, depth: int) -> set[Any]:
    return set(hashed(_members(parts, other, bounds, depth), bounds))


def _table(parts: list[Any], other: Other, bounds: Bounds, depth: int) -> dict[Any, Any]:
    members = _members(parts, other, bounds, depth)
    return dict(zip(hashed(members[::2], bounds), members[1::2], strict=True))


def _text(parts: list[Any]) -> str:
    if len(parts) != 1 or type(parts[0]) is not str:
        raise CodecError("one text is needed")
    return parts[0]


def _numbers(parts: list[Any], kinds: tuple[type, ...], count: int) -> list[Any]:
    numbers = [decode(part) for part in parts[: count + 1]]
    if len(numbers) != count or any(type(number) not in kinds for number in numbers):
        raise CodecError("numbers are needed")
    return numbers


def _digits(parts: list[Any]) -> list[str]:
    if any(type(part) is not str for part in parts):
        raise CodecError("digits are needed")
    return [_short(part) for part in parts]


def _decimal(parts: list[Any]) -> Any:
    from decimal import Decimal, InvalidOperation

    try:
        return Decimal(_short(_text(parts)))
    except InvalidOperation as error:
        raise CodecError(f"no number: {error}") from None


def _fraction(parts: list[Any]) -> Any:
    from fractions import Fraction

    numerator, denominator = (int(part, 16) for part in _digits(parts))
    if denominator < 1:
        raise CodecError("no fraction")
    return Fraction(numerator, denominator)


def _delta(parts: list[Any]) -> Any:
    import datetime

    return datetime.timedelta(*_numbers(parts, (int,), 3))


def _moment(kind: str, parts: list[Any]) -> Any:
    import datetime

    *numbers, fold, zone = parts
    place = None if zone is None else datetime.timezone(_delta(zone))
    make = datetime.time if kind == "time" else datetime.datetime
    return make(*_numbers(numbers, (int,), 4 if kind == "time" else 7), tzinfo=place, fold=fold)


def _date(parts: list[Any]) -> Any:
    import datetime

    return datetime.date(*_numbers(parts, (int,), 3))


def _timezone(parts: list[Any]) -> Any:
    import datetime

    return datetime.timezone(_delta(parts))


def _view(kind: str, members: list[Any], bounds: Bounds) -> Any:
    if kind == "values":
        return dict(enumerate(members)).values()
    if kind == "keys":
        return dict.fromkeys(hashed(members, bounds)).keys()
    pairs = [(key, value) for key, value in members]
    hashed([key for key, _ in pairs], bounds)
    return dict(pairs).items()


_KINDS: dict[str, Callable[[list[Any], Other, Bounds, int], Any]] = {
    "i": lambda parts, other, bounds, depth: int(_text(parts), 16),
    "f": lambda parts, other, bounds, depth: float(_text(parts)),
    "c": lambda parts, other, bounds, depth: complex(*_numbers(parts, (float,), 2)),
    "b": lambda parts, other, bounds, depth: bytes.fromhex(_text(parts)),
    "r": lambda parts, other, bounds, depth: range(*_numbers(parts, (int,), 3)),
    "l": _members,
    "t": lambda parts, other, bounds, depth: tuple(_members(parts, other, bounds, depth)),
    "s": _set,
    "z": lambda parts, other, bounds, depth: frozenset(_set(parts, other, bounds, depth)),
    "d": _table,
    "D": lambda parts, other, bounds, depth: _decimal(parts),
    "Q": lambda parts, other, bounds, depth: _fraction(parts),
    "date": lambda parts, other, bounds, depth: _date(parts),
    "time": lambda parts, other, bounds, depth: _moment("time", parts),
    "datetime": lambda parts, other, bounds, depth: _moment("datetime", parts),
    "timedelta": lambda parts, other, bounds, depth: _delta(parts),
    "timezone": lambda parts, other, bounds, depth: _timezone(parts),
    **{
        kind: lambda parts, other, bounds, depth, kind=kind: _view(kind, _members(parts, other, bounds, depth), bounds)
        for kind in VIEWS.values()
    },
}
