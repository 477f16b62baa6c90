"""What the program and the tests both hold: one object, with a copy on either side that has the same contents.

A list that a test hands to the program is a list there, and when the program changes it, hands it back or keeps it, the
test sees that as if both were in one process. Every message between the two sides carries the contents of what its
sender changed since the message before:

    "heap": [[number, [kind, type, extra, member, ...]], ...]       type: of a subclass, else null
    ["@", number]                                                   the object in a value

An object that only one side holds costs nothing: the tests' side says which ones it has dropped.
"""

from __future__ import annotations

import math
import operator
from collections import Counter, OrderedDict, defaultdict, deque

import codec  # type: ignore[import-not-found]

TYPE_CHECKING = False  # as in codec.py
if TYPE_CHECKING:
    from typing import Any

KINDS: dict[str, Any] = {
    "l": list,
    "d": dict,
    "s": set,
    "a": bytearray,
    "q": deque,
    "o": OrderedDict,
    "k": Counter,
    "y": defaultdict,
}
TAGS = {kind: tag for tag, kind in KINDS.items()}
IMMUTABLE: dict[Any, str] = {tuple: "t", frozenset: "z"}
SCALARS = frozenset({type(None), bool, int, float, str})


class Heap:
    """One side's objects, by number."""

    def __init__(self, first: int) -> None:
        """Number what comes from this side `first`, `first + 2`, ...: 0 on one side, 1 on the other."""
        self.objects: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        """by `id`, which nobody else gets while the object is kept"""
        self._seen: dict[int, list[Any]] = {}
        """the members that the other side knows"""
        self._new: list[int] = []
        self._next = first

    def number(self, value: Any) -> int:
        """The object's number; it gets one with the first message that it is in."""
        number = self.numbers.get(id(value))
        if number is None:
            number, self._next = self._next, self._next + 2
            self.keep(number, value)
            if kind_of(type(value)):
                self._new.append(number)
        return number

    def keep(self, number: int, value: Any) -> None:
        """The object with this number, whoever gave it."""
        self.objects[number] = value
        self.numbers[id(value)] = number

    def forget(self, number: int) -> None:
        """The other side will not name it again."""
        value = self.objects.pop(number, None)
        self.numbers.pop(id(value), None)
        self._seen.pop(number, None)

    def encode(self, value: Any, depth: int = codec.MAX_DEPTH) -> Any:
        """A value as JSON data; `changes` must follow.

        Raises:
            CodecError: nested too deeply, or not to be handed over.
        """
        kind = type(value)
        if kind in SCALARS:
            return codec.encode(value)
        if kind in TAGS:
            return ["@", self.number(value)]
        if kind in IMMUTABLE:
            if depth == 0:
                raise codec.CodecError(f"nested deeper than {codec.MAX_DEPTH} levels")
            return [IMMUTABLE[kind], *(self.encode(item, depth - 1) for item in value)]
        if kind is slice:
            return ["slice", *(self.encode(part, depth - 1) for part in (value.start, value.stop, value.step))]
        if codec.is_value(value):
            return codec.encode(value)
        return self.refer(value, depth)

    def changes(self) -> list[Any]:
        """The contents of what the other side does not know yet, or knows otherwise."""
        for number, seen in self._seen.items():
            if not _same(members_of(self.objects[number]), seen):
                self._new.append(number)
        changed = []
        while self._new:
            number = self._new.pop()
            value = self.objects[number]
            self._seen[number] = members = members_of(value)
            kind = kind_of(type(value))
            own = None if type(value) is kind else self.type_number(type(value))
            changed.append([number, [TAGS[kind], own, self._extra(kind, value), *self._encode_all(members)]])
        return changed

    def _encode_all(self, members: list[Any]) -> list[Any]:
        kinds = set(map(type, members))
        plain = kinds <= {str} or kinds <= {bool, type(None)}
        if kinds == {int}:
            plain = max(members) < codec.SHORT and min(members) > -codec.SHORT
        elif kinds == {float}:
            plain = all(map(math.isfinite, members))
        return members if plain else [self.encode(member) for member in members]

    def _extra(self, kind: Any, value: Any) -> Any:
        if kind is deque:
            return value.maxlen
        return self.encode(value.default_factory) if kind is defaultdict else None

    def receive(self, changed: list[Any]) -> None:
        """Make what the other side did.

        Raises:
            CodecError: it is malformed.
        """
        for number, (tag, own, extra, *_) in changed:
            if type(number) is not int or tag not in KINDS:
                raise codec.CodecError("not the contents of an object")
            if number not in self.objects:
                self.keep(number, self.made(KINDS[tag], own, extra))
            elif kind_of(type(self.objects[number])) is not KINDS[tag]:
                raise codec.CodecError("an object of another kind")
        for number, (_, _, _, *members) in changed:
            value = self.objects[number]
            fill(value, self.decode_all(members))
            self._seen[number] = members_of(value)

    def made(self, kind: Any, own: Any, extra: Any) -> Any:
        """An empty one."""
        if own is not None:
            return kind.__new__(self.objects[own])
        if kind is deque:
            return deque(maxlen=extra)
        return defaultdict(self.decode(extra)) if kind is defaultdict else kind()

    def decode(self, data: Any, depth: int = codec.MAX_DEPTH) -> Any:
        """The value of JSON data; what it refers to must have been received.

        Raises:
            CodecError: it is malformed.
        """
        if type(data) in SCALARS:
            return data
        if depth == 0 or not isinstance(data, list) or not data:
            raise codec.CodecError("not an encoded value")
        if data[0] == "@" and len(data) == 2 and data[1] in self.objects:
            return self.objects[data[1]]
        if data[0] == "t":
            return tuple(self.decode(item, depth - 1) for item in data[1:])
        if data[0] == "z":
            return frozenset(codec.hashed([self.decode(item, depth - 1) for item in data[1:]]))
        if data[0] == "slice" and len(data) == 4:
            return slice(*(self.decode(item, depth - 1) for item in data[1:]))
        return self.referred(data) if data[0] in self.REFERENCES else codec.decode(data)

    def decode_all(self, members: list[Any]) -> list[Any]:
        """The values of a list of data."""
        return (
            [self.decode(member) for member in members] if not {list, dict}.isdisjoint(map(type, members)) else members
        )

    REFERENCES: frozenset[str] = frozenset()
    """tags of what a side refers to in its own ways"""

    def refer(self, value: Any, depth: int) -> Any:
        """How a side names what is neither plain nor mirrored."""
        raise codec.NotPlainError(f"not a plain value: {type(value).__name__}")

    def referred(self, data: list[Any]) -> Any:
        """What the other side named so."""
        raise codec.CodecError("not an encoded value")

    def type_number(self, own: type) -> int:
        """The number of a subclass."""
        raise codec.NotPlainError(f"not a plain value: {own.__name__}")


def kind_of(own: Any) -> Any:
    """The mutable builtin that a type is, or extends; None: none."""
    return next((cls for cls in own.__mro__ if cls in TAGS), None)


def _same(members: list[Any], others: list[Any]) -> bool:
    return len(members) == len(others) and all(map(operator.is_, members, others))


def members_of(value: Any) -> list[Any]:
    """Its members, keys and values in turn; nothing that a subclass redefines is asked."""
    kind = kind_of(type(value))
    if kind is bytearray:
        return [*bytes(memoryview(value))]  # ints below 256 are one object each
    if issubclass(kind, dict):
        items = OrderedDict.items(value) if kind is OrderedDict else dict.items(value)
        return [part for item in items for part in item]
    return [*kind.__iter__(value)]


def fill(value: Any, members: list[Any]) -> None:
    """Give it these members instead of its own."""
    kind = kind_of(type(value))
    if kind is list:
        list.__setitem__(value, slice(None), members)
    elif kind is bytearray:
        bytearray.__setitem__(value, slice(None), bytes(members))
    elif kind is set:
        set.clear(value)
        set.update(value, codec.hashed(members))
    elif kind is deque:
        deque.clear(value)
        deque.extend(value, members)
    else:
        put = OrderedDict if kind is OrderedDict else dict
        put.clear(value)
        codec.hashed(members[::2])
        for key, member in zip(members[::2], members[1::2], strict=True):
            put.__setitem__(value, key, member)
