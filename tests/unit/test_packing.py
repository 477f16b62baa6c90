"""Packing: every response once, budgets kept, and the tensors say where each token is predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, groupby, takewhile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoner.distributed.sharding import GroupRows, rows_by_group, shares_of
from reasoner.learning.batching.inputs import flat_inputs, padded_inputs
from reasoner.learning.batching.packing import (
    MicroBatch,
    PackedSequence,
    Sharing,
    extremes_of,
    longest_context,
    pack,
    pack_padded,
    worth_sharing,
)
from reasoner.learning.batching.prefix_tree import PrefixTree
from reasoner.learning.batching.shapes import SequenceShape
from reasoner.records import Group
from tests.ragged import make_group, ragged_groups

CPU = torch.device("cpu")


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    prompts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    return ragged_groups(prompts, draw(st.integers(1, 6)), draw(st.integers(1, 20)), seed=draw(st.integers(0, 99)))


def _contents(batches: tuple[MicroBatch, ...]) -> dict[int, tuple[Sequence[int], Sequence[int]]]:
    result = [
        (index, (sequence.prompt_ids, response))
        for batch in batches
        for sequence in batch.sequences
        for index, response in zip(sequence.rows, sequence.responses, strict=True)
    ]
    assert len(dict(result)) == len(result)
    return dict(result)


def _expected(some: list[Group]) -> dict[int, tuple[Sequence[int], Sequence[int]]]:
    flat = [(group.prompt_ids, response.token_ids) for group in some for response in group.responses]
    return dict(enumerate(flat))


@given(groups(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_every_response_is_in_one_row_with_its_prompt(some: list[Group], budget: int, sharing: Sharing) -> None:
    assert _contents(pack(rows_by_group(some), budget, sharing)) == _expected(some)
    assert _contents(pack_padded(rows_by_group(some), budget)) == _expected(some)


@given(groups(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_only_a_single_row_exceeds_the_budget(some: list[Group], budget: int, sharing: Sharing) -> None:
    for batch in pack(rows_by_group(some), budget, sharing):
        assert batch.tokens <= budget or len(batch.sequences) == 1
    for batch in pack_padded(rows_by_group(some), budget):
        assert len(batch.sequences) * max(each.tokens for each in batch.sequences) <= budget or len(batch.rows) == 1


@st.composite
def units(draw: st.DrawFn) -> tuple[list[Group], list[int]]:
    """Groups and the unit of every response, units of one to all responses of a group."""
    some = draw(groups())
    unit_ids = [10 * n + draw(st.integers(0, 3)) for n, group in enumerate(some) for _ in group.responses]
    return some, unit_ids


def _by_unit(batches: tuple[MicroBatch, ...], unit_ids: list[int]) -> dict[int, set[int]]:
    """The micro-batches that hold responses of each unit."""
    result: dict[int, set[int]] = {}
    for place, batch in enumerate(batches):
        for index in batch.rows:
            result.setdefault(unit_ids[index], set()).add(place)
    return result


@given(units(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_a_unit_is_in_one_micro_batch(some: tuple[list[Group], list[int]], budget: int, sharing: Sharing) -> None:
    the_groups, unit_ids = some
    selected = rows_by_group(the_groups, unit_ids=unit_ids)
    for batches in (pack(selected, budget, sharing), pack_padded(selected, budget)):
        assert _contents(batches) == _expected(the_groups)
        assert all(len(places) == 1 for places in _by_unit(batches, unit_ids).values())


@given(units(), st.integers(1, 200))
def test_only_a_single_unit_exceeds_the_budget(some: tuple[list[Group], list[int]], budget: int) -> None:
    the_groups, unit_ids = some
    selected = rows_by_group(the_groups, unit_ids=unit_ids)
    for batch in pack(selected, budget, "never"):
        assert batch.tokens <= budget or len({unit_ids[row] for row in batch.rows}) == 1
    for batch in pack_padded(selected, budget):
        padded = len(batch.sequences) * max(sequence.tokens for sequence in batch.sequences)
        assert padded <= budget or len({unit_ids[row] for row in batch.rows}) == 1


@given(units(), st.integers(1, 200))
def test_a_unit_shares_one_row(some: tuple[list[Group], list[int]], budget: int) -> None:
    the_groups, unit_ids = some
    batches = pack(rows_by_group(the_groups, unit_ids=unit_ids), budget, "always")
    sequences = [sequence for batch in batches for sequence in batch.sequences]
    units_of = [{unit_ids[row] for row in sequence.rows} for sequence in sequences]
    assert sorted(unit for units in units_of for unit in units) == sorted(set(unit_ids))
    assert all(
        sequence.tokens <= budget or len(units) == 1 for sequence, units in zip(sequences, units_of, strict=True)
    )


@given(groups(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_units_of_one_response_change_nothing(some: list[Group], budget: int, sharing: Sharing) -> None:
    each_own = list(range(sum(len(group.responses) for group in some)))
    assert pack(rows_by_group(some, unit_ids=each_own), budget, sharing) == pack(rows_by_group(some), budget, sharing)
    assert pack_padded(rows_by_group(some, unit_ids=each_own), budget) == pack_padded(rows_by_group(some), budget)


def test_the_responses_of_a_unit_need_not_be_neighbours() -> None:
    group = make_group("a", range(10), [range(9)] * 4)
    selected = rows_by_group([group], unit_ids=[7, 8, 8, 7])
    shared = [sequence.rows for batch in pack(selected, 30, "always") for sequence in batch.sequences]
    single = [batch.rows for batch in pack(selected, 30, "never")]
    assert sorted(shared) == sorted(single) == [(0, 3), (1, 2)]


def test_a_unit_over_two_groups_is_refused() -> None:
    some = [make_group("a", [1], [[1], [2]]), make_group("b", [1], [[1], [2]])]
    with pytest.raises(ValueError, match="unit 1 spans two groups, of problems 'a' and 'b'"):
        rows_by_group(some, unit_ids=[0, 1, 1, 2])


@pytest.mark.parametrize("unit_ids", [[0], [0, 1, 2]])
def test_every_response_needs_a_unit(unit_ids: list[int]) -> None:
    with pytest.raises(ValueError, match=f"one unit per response: 2 of them, got {len(unit_ids)}"):
        rows_by_group([make_group("a", [1], [[1], [2]])], unit_ids=unit_ids)


@st.composite
def alike(draw: st.DrawFn) -> list[Group]:
    """Groups whose responses begin with parts of a few sequences."""
    stems = draw(st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=3))

    def response() -> list[int]:
        stem = draw(st.sampled_from(stems))
        return stem[: draw(st.integers(0, len(stem)))] + draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))

    prompt = range(draw(st.integers(1, 5)))
    return [make_group("alike", prompt, [response() for _ in range(draw(st.integers(1, 8)))])]


@given(alike(), st.integers(1, 12))
def test_common_beginnings_are_there_once_and_every_response_is_on_its_way(some: list[Group], least: int) -> None:
    responses = [response.token_ids for response in some[0].responses]
    for tree in (PrefixTree.of(responses, least), PrefixTree.apart(responses)):
        for response, path in zip(responses, tree.paths, strict=True):
            assert [tree.parents[piece] for piece in path] == [-1, *path][: len(path)]
            tokens = [token for piece in path for token in tree.pieces[piece]]
            assert tokens == [*response[:-1]]
        siblings = [parent for parent, _ in groupby(tree.parents)]
        assert len(siblings) == len(set(siblings))  # neighbours
        assert all(parent < piece for piece, parent in enumerate(tree.parents))
    tree = PrefixTree.of(responses, least)
    assert tree.tokens <= sum(len(response) - 1 for response in responses)
    users = Counter(piece for path in tree.paths for piece in path)
    assert all(len(tree.pieces[piece]) >= least for piece, count in users.items() if count > 1)
    for first, second in combinations(range(len(responses)), 2):  # what is shared is all that two have in common
        common = len(
            [
                *takewhile(
                    lambda pair: pair[0] == pair[1],
                    zip(*(responses[row][:-1] for row in (first, second)), strict=False),
                )
            ]
        )
        shared = sum(len(tree.pieces[piece]) for piece in {*tree.paths[first]} & {*tree.paths[second]})
        assert shared <= common < shared + least or shared == common


@given(alike(), st.integers(1, 200), st.sampled_from(["auto", "always", "never"]))
def test_responses_that_begin_alike_keep_to_the_budget(some: list[Group], budget: int, sharing: Sharing) -> None:
    """As they would without a tree, so that there are never more targets than it."""
    batches = pack(rows_by_group(some), budget, sharing)
    assert _contents(batches) == _expected(some)
    for batch in batches:
        assert sum(each.reserved_tokens for each in batch.sequences) <= budget or len(batch.sequences) == 1
        assert batch.tokens == flat_inputs(batch, CPU).input_ids_BL.shape[1]
        assert sharing != "never" or all(each.tree is None for each in batch.sequences)


def test_a_tree_is_for_what_saves_more_than_a_fifth() -> None:
    stem = [*range(20, 40)]
    for ends, shared in (([[1, 2], [3, 4]], True), ([range(60), range(1, 61)], False)):
        group = make_group("a", range(4), [[*stem, *end] for end in ends])
        (sequence,) = pack(rows_by_group([group]), 1000, "always")[0].sequences
        assert (sequence.tree is not None) == shared
    assert [
        sequence.tokens
        for sequence in pack(rows_by_group([make_group("a", [1], [stem, stem])]), 99, "auto")[0].sequences
    ] == [20]


def test_responses_with_experts_of_their_own_share_no_beginning() -> None:
    group = make_group("a", range(4), [range(20, 40)] * 2)
    routed = [replace(group.responses[0], routes=range(23)), group.responses[1]]
    (sequence,) = pack(rows_by_group([replace(group, responses=tuple(routed))]), 1000, "always")[0].sequences
    assert (sequence.tree, sequence.tokens) == (None, 4 + 2 * 19)


def test_flat_inputs_of_responses_that_begin_alike() -> None:
    responses = ((1, 2, 3, 4, 5), (1, 2, 3, 9, 8), (1, 2, 3), (7,))
    sequence = PackedSequence((10, 11), responses, (0, 1, 2, 3), tree=PrefixTree.of(responses, 2))
    inputs = flat_inputs(MicroBatch((PackedSequence((6,), ((5, 4),), (4,)), sequence)), CPU)
    assert inputs.input_ids_BL.tolist() == [[6, 5, 10, 11, 1, 2, 3, 4, 3, 9]]
    assert inputs.position_ids_BL.tolist() == [[0, 1, 0, 1, 2, 3, 4, 5, 4, 5]]
    assert inputs.shapes == (SequenceShape(0, 1, (1,), (-1,)), SequenceShape(2, 2, (2, 2, 2), (-1, 0, 0)))
    assert inputs.targets_S.tolist() == [5, 4, 1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 1, 2, 3, 7]
    assert inputs.predictors_S.tolist() == [0, 1, 3, 4, 5, 6, 7, 3, 4, 5, 8, 9, 3, 4, 5, 3]


def test_a_shared_prompt_is_counted_once_and_the_last_token_not_at_all() -> None:
    group = make_group("a", range(10), [range(5), range(3), range(1)])
    (batch,) = pack(rows_by_group([group]), 100, "always")
    assert batch.tokens == 10 + 4 + 2 + 0
    assert sum(each.tokens for each in pack(rows_by_group([group]), 100, "never")[0].sequences) == 14 + 12 + 10


def test_a_group_larger_than_the_budget_becomes_several_rows() -> None:
    group = make_group("a", range(10), [range(n, n + 9) for n in range(5)])
    sequences = [each for batch in pack(rows_by_group([group]), 30, "always") for each in batch.sequences]
    assert [len(sequence.responses) for sequence in sequences] == [2, 2, 1]
    assert [sequence.tokens for sequence in sequences] == [26, 26, 18]


def test_a_row_larger_than_the_budget_gets_a_micro_batch_of_its_own() -> None:
    long, short = make_group("long", range(50), [range(9)]), make_group("short", range(2), [range(2)])
    assert [batch.tokens for batch in pack(rows_by_group([short, long]), 20, "auto")] == [58, 3]


@pytest.mark.parametrize(("prompt", "worth"), [(4, False), (5, True)])
def test_auto_shares_what_saves_more_than_a_fifth(prompt: int, worth: bool) -> None:
    # Two responses put 8 tokens each through the model: sharing a prompt of p saves p of 2 p + 16 tokens, 1/5 at 16/3.
    group = make_group("a", range(prompt + 1), [range(9), range(1, 10)])
    (selected,) = rows_by_group([group])
    assert worth_sharing(selected) is worth
    assert len(pack([selected], 100, "auto")[0].sequences) == (1 if worth else 2)


def test_no_groups_no_micro_batches() -> None:
    assert pack([], 100, "auto") == ()
    assert pack_padded([], 100) == ()


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' has an empty prompt"):
        pack(rows_by_group([make_group("a", [], [[1, 2]])]), 100, "auto")


def test_flat_inputs_restart_positions_and_point_at_the_predicting_token() -> None:
    batch = MicroBatch(
        (PackedSequence((1, 2, 3), ((4, 5), (6,), (7, 8, 9)), (2, 0, 1)), PackedSequence((10,), ((11, 12),), (3,)))
    )
    inputs = flat_inputs(batch, CPU)
    assert inputs.input_ids_BL.tolist() == [[1, 2, 3, 4, 7, 8, 10, 11]]
    assert inputs.position_ids_BL.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1]]
    assert inputs.shapes == (SequenceShape(0, 3, (1, 0, 2), (-1, -1, -1)), SequenceShape(6, 1, (1,), (-1,)))
    assert inputs.targets_S.tolist() == [4, 5, 6, 7, 8, 9, 11, 12]
    assert inputs.predictors_S.tolist() == [2, 3, 2, 2, 4, 5, 6, 7]
    assert batch.rows == (2, 0, 1, 3)


def test_padded_inputs_are_padded_on_the_right() -> None:
    batch = MicroBatch((PackedSequence((1, 2), ((3, 4, 5),), (1,)), PackedSequence((6,), ((7,),), (0,))))
    inputs = padded_inputs(batch, CPU)
    assert inputs.input_ids_BL.tolist() == [[1, 2, 3, 4], [6, 0, 0, 0]]
    assert inputs.targets_S.tolist() == [3, 4, 5, 7]
    assert inputs.predictors_S.tolist() == [1, 2, 3, 4]


@given(groups())
def test_padding_and_flattening_are_inverse(some: list[Group]) -> None:
    inputs = flat_inputs(pack(rows_by_group(some), 10_000, "auto")[0], CPU)
    values_S = torch.arange(1, len(inputs.targets_S) + 1)
    padded_RT = inputs.padded(values_S)
    assert padded_RT.shape == (len(inputs.lengths_R), max(inputs.lengths_R))
    assert inputs.flat(padded_RT).equal(values_S)
    assert int((padded_RT != 0).sum()) == len(values_S)


@given(groups())
def test_the_longest_and_the_shortest_sequence_are_found(some: list[Group]) -> None:
    def lengths(groups: list[GroupRows]) -> list[int]:
        return [len(each.group.prompt_ids) + len(each.response(row).token_ids) for each in groups for row in each.rows]

    every = rows_by_group(some)
    few = extremes_of(every)
    assert longest_context(every) == max(lengths(every)) == max(lengths(few))
    assert min(lengths(every)) == min(lengths(few))
    assert len(few) <= 2
    assert all(len(group.rows) <= 2 for group in few)
    assert {group.group.problem.id for group in few} <= {group.problem.id for group in some}


def test_no_groups_have_no_longest_sequence() -> None:
    assert longest_context([]) == 0


@given(units(), st.data())
def test_what_is_left_out_changes_no_row(some: tuple[list[Group], list[int]], data: st.DataObject) -> None:
    """Selected, sharded and packed, a response keeps its row of the batch: the pieces are those of the batch."""
    the_groups, unit_ids = some
    rows = data.draw(st.lists(st.sampled_from(range(len(unit_ids))), unique=True))
    selected = rows_by_group(the_groups, rows, unit_ids)
    assert sorted(row for group in selected for row in group.rows) == sorted(rows)
    shares = shares_of(selected, 3)
    assert sorted(row for share in shares for group in share for row in group.rows) == sorted(rows)
    expected = _expected(the_groups)
    for share in shares:
        for batches in (pack(share, 40, "auto"), pack_padded(share, 40)):
            contents = _contents(batches)
            assert contents == {row: expected[row] for group in share for row in group.rows}


def test_a_group_without_selected_responses_goes_nowhere() -> None:
    some = ragged_groups(prompts=(3, 4, 5), responses=2)
    selected = rows_by_group(some, rows=[5, 0])
    assert [(group.group, group.first, group.rows) for group in selected] == [(some[0], 0, (0,)), (some[2], 4, (5,))]
    assert selected[1].tokens == 5 + len(some[2].responses[1].token_ids)
    assert rows_by_group(some, rows=[]) == []
