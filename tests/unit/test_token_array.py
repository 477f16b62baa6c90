"""One number per token: read-only, equal by content, and never a Python object for each."""

from __future__ import annotations

import copy
import math
import pickle
from array import array
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch

from reasoner.io.token_array import Kind, TokenArray
from reasoner.records import Batch, Group, Problem, Response

KINDS: list[tuple[Kind, list[Any]]] = [
    ("int32", [0, -1, 2**31 - 1, -(2**31)]),
    ("bool", [True, False, True, True]),
    ("float32", [0.0, -0.5, math.inf, -1.5]),
    ("float64", [0.1, -1e-300, -math.inf, 2.0**60]),
]


@pytest.mark.parametrize(("kind", "numbers"), KINDS)
def test_it_reads_as_the_tuple_of_its_numbers(kind: Kind, numbers: list[Any]) -> None:
    values: Any = TokenArray(numbers, kind)
    assert (values, values.kind, len(values), [*values]) == (tuple(numbers), kind, 4, numbers)
    assert (values[0], values[-1], values[1:3], values[::2]) == (numbers[0], numbers[-1], numbers[1:3], numbers[::2])
    assert [type(value) for value in values] == [type(number) for number in numbers]
    assert all(values.count(number) == numbers.count(number) for number in [*numbers, 7, "x"])
    assert values.index(numbers[1]) == 1
    assert numbers[1] in values
    assert hash(values) == hash(tuple(numbers))
    assert values == numbers
    assert tuple(numbers) == values
    for other in (numbers[1:], [*numbers, numbers[0]], numbers[::-1], [], None, 5, "x"):
        assert (values == other, values != other, other == values) == (False, True, False)


@pytest.mark.parametrize(("kind", "numbers"), KINDS)
def test_what_it_is_made_of_makes_no_difference(kind: Kind, numbers: list[Any]) -> None:
    values: TokenArray[Any] = TokenArray(numbers, kind)
    made_of_torch = torch.tensor(numbers, dtype=getattr(torch, kind))
    every_second = np.repeat(np.array(numbers, kind), 2)[::2]
    for other in (values, tuple(numbers), np.array(numbers, kind), every_second, made_of_torch, values[:]):
        assert TokenArray(other, kind) == values
    for back in (
        pickle.loads(pickle.dumps(values)),
        copy.deepcopy(values),
        TokenArray.frombytes(values.tobytes(), kind),
        TokenArray.joined([values[:1], [], numbers[1:]], kind),
    ):
        assert (back, back.kind, hash(back)) == (values, kind, hash(values))
    assert TokenArray([], kind) == TokenArray.joined([], kind) == ()


@pytest.mark.parametrize(("kind", "numbers"), KINDS)
def test_what_can_be_read_once_is_read_once(kind: Kind, numbers: list[Any]) -> None:
    assert TokenArray((number for number in numbers), kind) == numbers
    assert TokenArray(map(type(numbers[0]), numbers), kind) == numbers


def test_unsigned_numbers_that_fit_are_taken() -> None:
    for format_ in (np.uint8, np.uint16, np.uint32, np.uint64):
        assert TokenArray(np.array([0, 200], format_), "int32") == (0, 200)
    assert TokenArray(np.array([2**31 - 1], np.uint32), "int32") == (2**31 - 1,)
    assert TokenArray(b"\x01\xff", "int32") == (1, 255)  # the numbers, not the memory of one


@pytest.mark.parametrize(("kind", "numbers"), KINDS)
def test_its_numbers_are_pickled_out_of_band(kind: Kind, numbers: list[Any]) -> None:
    values: TokenArray[Any] = TokenArray(numbers, kind)
    for sent in (values, values[1:], values[:0]):
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
        assert len(buffers) == 1
        for given in (buffers, [buffer.raw() for buffer in buffers], [bytes(buffer.raw()) for buffer in buffers]):
            back = pickle.loads(data, buffers=given)
            assert (back, back.kind) == (sent, kind)


def test_nothing_changes_it() -> None:
    values: TokenArray[int] = TokenArray([1, 2], "int32")
    for same in (
        values,
        pickle.loads(pickle.dumps(values)),
        values[:1],
        TokenArray(np.array([1, 2], np.int32), "int32"),
    ):
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(same)[0] = 7
        with pytest.raises(TypeError):
            same[0] = 7  # type: ignore[index]
    made = np.array(values)
    made[0] = 7
    assert values == (1, 2)


def test_numpy_reads_it_where_it_is() -> None:
    made = np.arange(4, dtype=np.int32)
    values: TokenArray[int] = TokenArray(made, "int32")
    assert np.shares_memory(np.asarray(values[1:]), made)
    assert not np.shares_memory(np.array(values), made)
    assert np.asarray(values, np.int64).dtype == np.int64


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([2**31], "int32", "not a number of the format int32: signed integer is greater than maximum"),
        ([1.0], "int32", "not a number of the format int32"),
        (["1"], "float32", "not a number of the format float32"),
        ([1, 0], "bool", "True and False are needed"),
        (np.array([2**31]), "int32", "a number is too large for the format int32"),
        (np.array([2**31 + 5], np.uint32), "int32", "a number is too large for the format int32"),
        (np.array([1, 2**32 + 5], np.uint64), "int32", "a number is too large for the format int32"),
        (torch.tensor([2**32 + 5]), "int32", "a number is too large for the format int32"),
        (memoryview(array("I", [2**31 + 5])), "int32", "not a number of the format int32"),
        (array("I", [2**31 + 5]), "int32", "not a number of the format int32"),
        ((number for number in [2**31]), "int32", "not a number of the format int32"),
        ((flag for flag in [True, 1]), "bool", "True and False are needed"),
        (5, "bool", "not a number of the format bool"),
        (np.array([1.5]), "int32", "numbers of the format int32 are needed, got float64"),
        (np.array([1]), "bool", "numbers of the format bool are needed, got int64"),
        (np.zeros((2, 2), np.float32), "float32", "one dimension"),
    ],
)
def test_numbers_of_another_kind_are_refused(values: Any, kind: Kind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenArray(values, kind)


def response(**changes: Any) -> Response:
    return replace(Response("x", (5, 6), (True, False), (-0.5, 0.0), "stop", 0), **changes)


def test_records_are_compared_by_their_numbers_and_stay_frozen() -> None:
    same = response(token_ids=np.array([5, 6]), policy_mask=np.array([True, False]), sampler_logprobs=[-0.5, 0.0])
    assert response() == same
    assert hash(response()) == hash(same)
    assert {response(), same} == {same}
    for change in ({"token_ids": (5, 7)}, {"policy_mask": (True, True)}, {"sampler_logprobs": (-0.5, -0.25)}):
        assert response() != response(**change)
    with pytest.raises(FrozenInstanceError):
        same.token_ids = (1, 2)  # type: ignore[misc]
    group = Group(Problem("p", (), ""), (1, 2), (same,))
    assert group == pickle.loads(pickle.dumps(group))
    assert Batch((), old_logprobs=([-0.5],)) == Batch((), old_logprobs=(array("f", [-0.5]),))
    assert Batch((), old_logprobs=([-0.5],)) != Batch((), old_logprobs=([-0.25],))


def test_a_token_takes_nine_bytes_of_a_response() -> None:
    """Four for the id, four for the log-probability, one for the mask: no objects."""
    long = response(token_ids=range(10**5), policy_mask=[True] * 10**5, sampler_logprobs=[-0.1] * 10**5)
    assert len(pickle.dumps(long)) < 9.01 * 10**5
    assert long.sampler_logprobs[0] == np.float32(-0.1)
