"""What passes between programs, tests and the process that compares: plain values, and only they."""

from __future__ import annotations

import datetime
import importlib
import json
import math
import sys
from collections import Counter, OrderedDict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_rewards.code.inside import codec

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.integers())
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers()), inner)
    ),
    max_leaves=20,
)


def through(value: Any) -> Any:
    return codec.decode(json.loads(json.dumps(codec.encode(value))))


def spelled(value: Any) -> str:
    """As `repr`, with the members of sets in one order."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({sorted(map(spelled, value))})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({[spelled(each) for each in value]})"
    if isinstance(value, dict):
        return f"dict({[(spelled(key), spelled(each)) for key, each in value.items()]})"
    return repr(value)


@given(PLAIN)
def test_plain_values_come_through_with_their_types(value: object) -> None:
    assert spelled(through(value)) == spelled(value)


@pytest.mark.parametrize(
    "value", [[10**5000], -(2**60), range(3, 9, 2), float("-inf"), -0.0, "\ud800", {(): {1: b"\xff"}}]
)
def test_so_do_odd_ones(value: object) -> None:
    result = through(value)
    assert (type(result), result) == (type(value), value)
    assert math.copysign(1, through(-0.0)) == -1


COLLIDING = ["s", *(["i", f"{k * (2**61 - 1):x}"] for k in range(100))]
UTC = datetime.UTC


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.50"),
        Decimal("-Infinity"),
        Fraction(-3, 6),
        datetime.date(2024, 2, 29),
        datetime.time(1, 2, 3, 4, tzinfo=UTC),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
        datetime.datetime(2024, 1, 2, fold=1, tzinfo=datetime.timezone(datetime.timedelta(hours=-3))),
        datetime.timedelta(days=-1, microseconds=5),
        UTC,
        {"a": 1}.keys(),
        {"a": [1]}.items(),
    ],
)
def test_values_of_the_standard_library_keep_their_kind(value: object) -> None:
    result = through(value)
    assert (type(result), repr(result)) == (type(value), repr(value))
    assert getattr(result, "fold", None) == getattr(value, "fold", None)
    assert repr(through({"x": [value]})) == repr({"x": [value]})


def test_a_class_that_says_it_is_one_of_them_is_none() -> None:
    fake = type("Decimal", (), {"__module__": "decimal", "__str__": lambda self: "1"})
    with pytest.raises(codec.NotPlainError):
        codec.encode(fake())
    zone = type("Zone", (datetime.tzinfo,), {"utcoffset": lambda *_: None})
    with pytest.raises(codec.NotPlainError):
        codec.encode(datetime.time(tzinfo=zone()))


@pytest.mark.parametrize(
    "data",
    [
        ["D", "1" * 5000],
        ["D", "x"],
        ["D"],
        ["D", 1],
        ["Q", "1" * 5000, "1"],
        ["Q", "1", "0"],
        ["Q", "1", "-2"],
        ["Q", "1"],
        ["date", 2024, 13, 1],
        ["date", 2024],
        ["time", 1, 2, 3, 4, 5, None],
        ["datetime", 1, 2],
        ["timedelta", 10**12, 0, 0],
        ["timezone", 5, 0, 0],
        ["keys", ["l"]],
        ["items", 1],
    ],
)
def test_what_is_none_of_them_is_refused(data: object) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(data)


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any]]:
    """Hands a value from one side to the other, and gives what arrives with the side that it arrived at."""
    monkeypatch.setitem(sys.modules, "codec", codec)
    heap = importlib.import_module("reasoner_rewards.code.inside.heap")
    both = heap.Heap(0), heap.Heap(1)

    def hand(value: Any, giver: int = 0) -> tuple[Any, Any]:
        data = json.loads(json.dumps([both[giver].encode(value), both[giver].changes()]))
        both[1 - giver].receive(data[1])
        return both[1 - giver].decode(data[0]), data[1]

    return hand


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, 2], lambda value: value.append([3])),
        ([1], lambda value: value.__setitem__(0, True)),
        ({"a": 1}, lambda value: value.update(a=1.0, b=None)),
        ({1, 2}, lambda value: value.discard(1)),
        (bytearray(b"xy"), lambda value: value.append(0)),
        (deque([1, 2], maxlen=2), lambda value: value.rotate()),
        (OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
        (Counter("aab"), lambda value: value.subtract("a")),
    ],
)
def test_shared_objects_stay_one(sides: Any, value: Any, change: Any) -> None:
    given, sent = sides((value, [value]))
    assert given[0] is given[1][0] is not value
    assert (type(given[0]), repr(given[0])) == (type(value), repr(value))
    assert len(sent) == 2
    assert sides(value) == (given[0], [])  # nothing has changed
    change(given[0])
    back, sent = sides(given[0], giver=1)
    assert back is value
    assert sent
    assert repr(value) == repr(given[0])


def test_cycles_and_deep_nesting_are_shared_too(sides: Any) -> None:
    value: list[Any] = []
    value.append({"me": value})
    given, _ = sides(value)
    assert given[0]["me"] is given
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    result, depth = sides(deep)[0], 0
    while result:
        result, depth = result[0], depth + 1
    assert depth == 5000


@pytest.mark.parametrize(
    "changed",
    [
        [[1, ["x", None, None]]],
        [["1", ["l", None, None]]],
        [[0, ["d", None, None, 1, 2]]],
        [[1, ["d", None, None, 1]]],
        [[1, ["s", None, None, *COLLIDING[1:]]]],
        [[1, ["l", 7, None]]],
        [[1]],
        [5],
    ],
)
def test_shared_contents_that_cannot_be_are_refused(sides: Any, changed: Any) -> None:
    heap = sys.modules["reasoner_rewards.code.inside.heap"]
    side = heap.Heap(0)
    side.encode([1])  # number 0 is a list
    with pytest.raises((codec.CodecError, TypeError, ValueError, LookupError)):
        side.receive(changed)


class Lying(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


Pair = namedtuple("Pair", "left right")
Level = IntEnum("Level", "LOW HIGH")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Lying(3), 3),
        ([Lying(3)], [3]),
        (Pair(1, Lying(2)), (1, 2)),
        (Level.HIGH, 2),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=Pair(1, 2)), {"a": (1, 2)}),
    ],
)
def test_a_subclass_comes_through_as_its_base(value: object, plain: object) -> None:
    assert repr(through(value)) == repr(plain)


@pytest.mark.parametrize("value", [object(), iter([]), len, int, {1: object()}, ...])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(codec.NotPlainError):
        codec.encode(value)


def test_nesting_is_bounded_on_both_sides() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(codec.CodecError, match="deeper than 64 levels"):
        codec.encode(value)
    data: Any = 1
    for _ in range(65):
        data = ["l", data]
    with pytest.raises(codec.CodecError, match="deeper than 64 levels"):
        codec.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"i": 1},
        [],
        [1],
        [["l"]],
        ["x", 1],
        ["h", 0, "Fake"],
        ["n", "exec"],
        ["g", "f"],
        ["i"],
        ["i", 5],
        ["i", "1", "2"],
        ["i", "xyz"],
        ["f", "one"],
        ["b", "0"],
        ["r", 1, 2],
        ["r", 1, 2, 0],
        ["r", 1, 2, 1.0],
        ["c", 1, 2],
        ["s", ["l"]],
        ["d", 1],
        ["d", ["s"], 1],
        COLLIDING,
        ["d", *(part for each in COLLIDING[1:] for part in (each, 0))],
    ],
)
def test_what_is_no_encoding_is_refused(data: object) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(data)


def test_a_table_of_hashes_is_as_large_as_its_bound_and_no_larger() -> None:
    for data in (["s", 1, 2, 3], ["z", 1, 2, 3], ["d", 1, 0, 2, 0, 3, 0], ["l", ["s", 1, 2, 3]]):
        codec.decode(data, bounds=codec.Bounds(members=3))
        with pytest.raises(codec.CodecError, match="a set or dict of 3 members, more than can be expected"):
            codec.decode(data, bounds=codec.Bounds(members=2))


def test_decoding_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(codec, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with pytest.raises(codec.CodecError, match="takes too long"):
        codec.decode(["l", *([["l"]] * 1000)], bounds=codec.Bounds(end=50.0))
    assert next(clock) == 52  # one look per list: it ended at the first one after the deadline


def test_what_is_no_encoding_is_named_without_reading_it() -> None:
    """Its text may be megabytes, and nested more deeply than Python can write."""

    class Loud(list[Any]):
        def __repr__(self) -> str:
            raise AssertionError

    with pytest.raises(codec.CodecError, match="a Loud of 2"):
        codec.decode(Loud([[], []]))
