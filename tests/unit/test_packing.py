"""Packing: every response once, budgets kept, and the tensors say where each token is predicted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoner.learning.inputs import RowShape, flat_inputs, padded_inputs
from reasoner.learning.packing import MicroBatch, Row, Sharing, pack, pack_padded, worth_sharing
from reasoner.records import Group
from tests.ragged import make_group, ragged_groups

CPU = torch.device("cpu")


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    prompts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    return ragged_groups(prompts, draw(st.integers(1, 6)), draw(st.integers(1, 20)), seed=draw(st.integers(0, 99)))


def _contents(batches: tuple[MicroBatch, ...]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    found = [
        (index, (row.prompt_ids, response))
        for batch in batches
        for row in batch.rows
        for index, response in zip(row.indices, row.responses, strict=True)
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def _expected(some: list[Group]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    flat = [(group.prompt_ids, response.token_ids) for group in some for response in group.responses]
    return dict(enumerate(flat))


@given(groups(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_every_response_is_in_one_row_with_its_prompt(some: list[Group], budget: int, sharing: Sharing) -> None:
    assert _contents(pack(some, budget, sharing)) == _expected(some)
    assert _contents(pack_padded(some, budget)) == _expected(some)


@given(groups(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_only_a_single_row_exceeds_the_budget(some: list[Group], budget: int, sharing: Sharing) -> None:
    for batch in pack(some, budget, sharing):
        assert batch.tokens <= budget or len(batch.rows) == 1
    for batch in pack_padded(some, budget):
        assert len(batch.rows) * max(row.tokens for row in batch.rows) <= budget or len(batch.rows) == 1


def test_a_shared_prompt_is_counted_once_and_the_last_token_not_at_all() -> None:
    group = make_group("a", range(10), [range(5), range(3), range(1)])
    (batch,) = pack([group], 100, "always")
    assert batch.tokens == 10 + 4 + 2 + 0
    assert sum(row.tokens for row in pack([group], 100, "never")[0].rows) == 14 + 12 + 10


def test_a_group_larger_than_the_budget_becomes_several_rows() -> None:
    group = make_group("a", range(10), [range(9)] * 5)
    rows = [row for batch in pack([group], 30, "always") for row in batch.rows]
    assert [len(row.responses) for row in rows] == [2, 2, 1]
    assert [row.tokens for row in rows] == [26, 26, 18]


def test_a_row_larger_than_the_budget_gets_a_micro_batch_of_its_own() -> None:
    long, short = make_group("long", range(50), [range(9)]), make_group("short", range(2), [range(2)])
    assert [batch.tokens for batch in pack([short, long], 20, "auto")] == [58, 3]


@pytest.mark.parametrize(("prompt", "worth"), [(4, False), (5, True)])
def test_auto_shares_what_saves_more_than_a_fifth(prompt: int, worth: bool) -> None:
    # Two responses put 8 tokens each through the model: sharing a prompt of p saves p of 2 p + 16 tokens, 1/5 at 16/3.
    group = make_group("a", range(prompt + 1), [range(9), range(9)])
    assert worth_sharing(group) is worth
    assert len(pack([group], 100, "auto")[0].rows) == (1 if worth else 2)


def test_no_groups_no_micro_batches() -> None:
    assert pack([], 100, "auto") == ()
    assert pack_padded([], 100) == ()


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' has an empty prompt"):
        pack([make_group("a", [], [[1, 2]])], 100, "auto")


def test_flat_inputs_restart_positions_and_point_at_the_predicting_token() -> None:
    batch = MicroBatch((Row((1, 2, 3), ((4, 5), (6,), (7, 8, 9)), (2, 0, 1)), Row((10,), ((11, 12),), (3,))))
    inputs = flat_inputs(batch, CPU)
    assert inputs.input_ids_BL.tolist() == [[1, 2, 3, 4, 7, 8, 10, 11]]
    assert inputs.position_ids_BL.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1]]
    assert inputs.shapes == (RowShape(0, 3, (1, 0, 2)), RowShape(6, 1, (1,)))
    assert inputs.targets_S.tolist() == [4, 5, 6, 7, 8, 9, 11, 12]
    assert inputs.predictors_S.tolist() == [2, 3, 2, 2, 4, 5, 6, 7]
    assert batch.indices == (2, 0, 1, 3)


def test_padded_inputs_are_padded_on_the_right() -> None:
    batch = MicroBatch((Row((1, 2), ((3, 4, 5),), (1,)), Row((6,), ((7,),), (0,))))
    inputs = padded_inputs(batch, CPU)
    assert inputs.input_ids_BL.tolist() == [[1, 2, 3, 4], [6, 0, 0, 0]]
    assert inputs.targets_S.tolist() == [3, 4, 5, 7]
    assert inputs.predictors_S.tolist() == [1, 2, 3, 4]


@given(groups())
def test_padding_and_flattening_are_inverse(some: list[Group]) -> None:
    inputs = flat_inputs(pack(some, 10_000, "auto")[0], CPU)
    values_S = torch.arange(1, len(inputs.targets_S) + 1)
    padded_RT = inputs.padded(values_S)
    assert padded_RT.shape == (len(inputs.lengths_R), max(inputs.lengths_R))
    assert inputs.flat(padded_RT).equal(values_S)
    assert int((padded_RT != 0).sum()) == len(values_S)
