"""Plain values as JSON: what may pass between the model's program, the tests and the process that compares.

    None, bool, text, short int, finite float    themselves
    other int, float                             ["i", "-1f"] (hexadecimal: no limit on digits), ["f", "nan"]
    complex, bytes, range                        ["c", re, im], ["b", "hex"], ["r", start, stop, step]
    list, tuple, set, frozenset                  ["l", ...], ["t", ...], ["s", ...], ["z", ...]
    dict                                         ["d", key, value, key, value, ...]

A value of a subclass is written as its base type, whatever operators it defines. Decoding makes builtins and nothing
else, so that whoever compares decoded values never runs code of the program. What is neither plain nor made of plain
values goes through `other`: the program's side keeps it and writes a handle.
"""

from __future__ import annotations

import math
from collections import Counter

TYPE_CHECKING = False  # `typing` would be a third of the time that a program takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Other = Callable[[Any], Any]

MAX_DEPTH = 64
"""levels of nesting"""
SHORT = 2**53
"""ints below it are written as JSON numbers"""
MAX_EQUAL_HASHES = 50
"""members of a set or dict with one hash: more were made to collide, and would take quadratic time"""


class CodecError(ValueError):
    """Not a plain value, or not the encoding of one."""


class NotPlainError(CodecError):
    """A value that has no encoding, or one that the other side does not know."""


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
    return other(value)


def decode(data: Any, other: Other = refuse, depth: int = MAX_DEPTH) -> Any:
    """The value of JSON data; `other(data)` for lists whose tag is not one of the table above.

    Raises:
        CodecError: it is not what `encode` writes.
    """
    if depth == 0:
        raise CodecError(f"nested deeper than {MAX_DEPTH} levels")
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise CodecError(f"not an encoded value: {str(data)[:40]}")
    tag, parts = data[0], data[1:]
    if tag not in _KINDS:
        return other(data)
    try:
        return _KINDS[tag](parts, other, depth - 1)
    except CodecError:
        raise
    except (TypeError, ValueError) as error:
        raise CodecError(f"not an encoded value: {error}") from None


def _members(parts: list[Any], other: Other, depth: int) -> list[Any]:
    return [decode(part, other, depth) for part in parts]


def _hashed(members: list[Any]) -> list[Any]:
    """The members, if they are not made to collide."""
    hashes = Counter(map(hash, members))
    if hashes and max(hashes.values()) > MAX_EQUAL_HASHES:
        raise CodecError("members with equal hashes")
    return members


def _table(parts: list[Any], other: Other, depth: int) -> dict[Any, Any]:
    members = _members(parts, other, depth)
    return dict(zip(_hashed(members[::2]), members[1::2], strict=True))


def _text(parts: list[Any]) -> str:
    if len(parts) != 1 or type(parts[0]) is not str:
        raise CodecError("one text is needed")
    return parts[0]


def _numbers(parts: list[Any], kinds: tuple[type, ...], count: int) -> list[Any]:
    numbers = [decode(part) for part in parts]
    if len(numbers) != count or any(type(number) not in kinds for number in numbers):
        raise CodecError("numbers are needed")
    return numbers


_KINDS: dict[str, Callable[[list[Any], Other, int], Any]] = {
    "i": lambda parts, other, depth: int(_text(parts), 16),
    "f": lambda parts, other, depth: float(_text(parts)),
    "c": lambda parts, other, depth: complex(*_numbers(parts, (float,), 2)),
    "b": lambda parts, other, depth: bytes.fromhex(_text(parts)),
    "r": lambda parts, other, depth: range(*_numbers(parts, (int,), 3)),
    "l": _members,
    "t": lambda parts, other, depth: tuple(_members(parts, other, depth)),
    "s": lambda parts, other, depth: set(_hashed(_members(parts, other, depth))),
    "z": lambda parts, other, depth: frozenset(_hashed(_members(parts, other, depth))),
    "d": _table,
}
