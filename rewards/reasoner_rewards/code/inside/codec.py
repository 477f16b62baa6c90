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
import os
import sys
import time
from collections import Counter

TYPE_CHECKING = False  # `typing` would be a third of the time that a program takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Other = Callable[[Any], Any]

MAX_ANSWER = 2**24
"""bytes of the line that holds a value, or what a program printed"""
MAX_OUTPUT = 2**23
"""bytes that a program may print for one input"""
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


_MODULES = frozenset({"decimal", "fractions", "datetime"})
_TAGS = frozenset({"D", "Q", "date", "time", "datetime", "timedelta", "timezone"})
_FOLDER = os.path.dirname(__file__)


def _library() -> Any:
    """What knows the value types of these modules; most programs need it not, and would wait for it to be compiled."""
    if __package__:
        from reasoner_rewards.code.inside import library

        return library
    if "library" not in sys.modules:
        sys.path.insert(0, _FOLDER)
        __import__("library")
        sys.path.pop(0)
    return sys.modules["library"]


_VALUES = (complex, bytes, range)
VIEWS: dict[Any, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def is_value(value: Any) -> bool:
    """Whether it is of one of the immutable types above, exactly, and not made of other values."""
    kind = type(value)
    return kind in _VALUES or (kind.__module__ in _MODULES and _library().kind_of(kind) is not None)


def _encode_composed(value: Any, other: Other, depth: int) -> Any:
    if isinstance(value, complex):
        return ["c", *(encode(part) for part in (value.real, value.imag))]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if isinstance(value, range):
        return ["r", *(encode(part) for part in (value.start, value.stop, value.step))]
    for kind, tag in _COLLECTIONS:
        if isinstance(value, kind):
            return [tag, *(encode(item, other, depth - 1) for item in kind.__iter__(value))]
    if isinstance(value, dict):
        items = (part for pair in dict.items(value) for part in pair)
        return ["d", *(encode(part, other, depth - 1) for part in items)]
    if type(value) in VIEWS:
        return [VIEWS[type(value)], *(encode(item, other, depth - 1) for item in value)]
    if type(value).__module__ in _MODULES and _library().kind_of(type(value)) is not None:
        return _library().encode(value)
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
    if tag not in _KINDS and tag not in _TAGS:
        return other(data)
    try:
        if tag in _TAGS:
            return _library().decode(tag, parts)
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


def text_of(parts: list[Any]) -> str:
    """The one text that they are."""
    if len(parts) != 1 or type(parts[0]) is not str:
        raise CodecError("one text is needed")
    return parts[0]


def numbers_of(parts: list[Any], kinds: tuple[type, ...], count: int) -> list[Any]:
    """So many numbers of these kinds."""
    numbers = [decode(part) for part in parts[: count + 1]]
    if len(numbers) != count or any(type(number) not in kinds for number in numbers):
        raise CodecError("numbers are needed")
    return numbers


def _view(kind: str, members: list[Any], bounds: Bounds) -> Any:
    if kind == "values":
        return dict(enumerate(members)).values()
    if kind == "keys":
        return dict.fromkeys(hashed(members, bounds)).keys()
    pairs = [(key, value) for key, value in members]
    hashed([key for key, _ in pairs], bounds)
    return dict(pairs).items()


_KINDS: dict[str, Callable[[list[Any], Other, Bounds, int], Any]] = {
    "i": lambda parts, other, bounds, depth: int(text_of(parts), 16),
    "f": lambda parts, other, bounds, depth: float(text_of(parts)),
    "c": lambda parts, other, bounds, depth: complex(*numbers_of(parts, (float,), 2)),
    "b": lambda parts, other, bounds, depth: bytes.fromhex(text_of(parts)),
    "r": lambda parts, other, bounds, depth: range(*numbers_of(parts, (int,), 3)),
    "l": _members,
    "t": lambda parts, other, bounds, depth: tuple(_members(parts, other, bounds, depth)),
    "s": _set,
    "z": lambda parts, other, bounds, depth: frozenset(_set(parts, other, bounds, depth)),
    "d": _table,
    "keys": lambda parts, other, bounds, depth: _view("keys", _members(parts, other, bounds, depth), bounds),
    "values": lambda parts, other, bounds, depth: _view("values", _members(parts, other, bounds, depth), bounds),
    "items": lambda parts, other, bounds, depth: _view("items", _members(parts, other, bounds, depth), bounds),
}
