"""Rows that several ranks share: slices, attention over them, and what is gathered.

The ranks are threads here that meet at a barrier; `test_deepspeed.py` has real processes and gradients of whole
models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reasoner.errors import UserError
from reasoner.learning import sequence_parallel
from reasoner.learning.batching.inputs import flat_inputs
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.learning.model.attention import packed_attention
from reasoner.learning.sequence_parallel import SequenceRanks
from tests.unit.test_attention import RAGGED, shapes_of

CPU = torch.device("cpu")


@dataclass
class Meeting:
    """Where the threads of a group exchange their tensors."""

    count: int
    values: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [None] * self.count
        self.barrier = Barrier(self.count, timeout=30)

    def gather(self, index: int, value: Tensor) -> list[Tensor]:
        self.values[index] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values


def in_threads(count: int, work: Callable[[SequenceRanks], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `work` gives on each of so many ranks."""
    meeting = Meeting(count)

    def all_to_all(blocks: Tensor, group: int) -> Tensor:
        return torch.stack([sent[group] for sent in meeting.gather(group, blocks)])

    def all_gather(parts: list[Tensor], part: Tensor, group: int) -> None:
        for place, value in zip(parts, meeting.gather(group, part), strict=True):
            place.copy_(value)

    monkeypatch.setattr(sequence_parallel, "_all_to_all", all_to_all)
    monkeypatch.setattr("torch.distributed.all_gather", all_gather)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda index: work(SequenceRanks(index, count, index)), range(count)))


@pytest.mark.parametrize("shape", RAGGED)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "count"), [(4, 4, 2), (4, 2, 2), (4, 1, 4), (6, 2, 3), (6, 3, 2), (12, 4, 6), (8, 2, 4)]
)
def test_attention_over_slices_is_that_over_the_row(
    shape: str, heads: int, kv_heads: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients; the row does not divide equally most of the time, and has fewer tokens than ranks."""
    shapes = shapes_of(*RAGGED[shape])
    length = sum(part.tokens for part in shapes)
    torch.manual_seed(0)
    parts = [torch.randn(1, number, length, 8, dtype=torch.float64) for number in (heads, kv_heads, kv_heads)]
    upstream = torch.randn(1, length, heads, 8, dtype=torch.float64)

    def attend(parts: Sequence[Tensor], upstream: Tensor, **options: Any) -> tuple[Tensor, list[Tensor]]:
        query, key, value = leaves = [part.clone().requires_grad_() for part in parts]
        output, _ = packed_attention(nn.Identity(), query, key, value, None, sequence_shapes=shapes, **options)
        return output.detach(), list(torch.autograd.grad((output * upstream).sum(), leaves))

    def work(ranks: SequenceRanks) -> tuple[Tensor, list[Tensor]]:
        own = [sliced(part, 2, ranks) for part in parts]
        return attend(own, sliced(upstream, 1, ranks), sequence_ranks=ranks)

    expected, gradients = attend(parts, upstream)
    results = in_threads(count, work, monkeypatch)
    torch.testing.assert_close(torch.cat([output for output, _ in results], 1)[:, :length], expected)
    for place, gradient in enumerate(gradients):
        joined = torch.cat([result[place] for _, result in results], 2)
        torch.testing.assert_close(joined[:, :, :length], gradient)
        assert not joined[:, :, length:].any()


def sliced(whole: Tensor, dimension: int, ranks: SequenceRanks) -> Tensor:
    """A rank's slice of a tensor whose tokens are in this dimension, filled up with ones that must not matter."""
    tokens = -(-whole.shape[dimension] // ranks.count)
    missing = list(whole.shape)
    missing[dimension] = tokens * ranks.count - whole.shape[dimension]
    filled = torch.cat([whole, whole.new_ones(missing)], dimension)
    return filled.narrow(dimension, ranks.index * tokens, tokens)


sequences = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 6), min_size=1, max_size=4)), min_size=1, max_size=4
)


@given(sequences, st.integers(1, 6))
def test_slices_have_every_token_once_and_what_predicts_it(lengths: list[tuple[int, list[int]]], count: int) -> None:
    whole = flat_inputs(batch_of(lengths), CPU)
    slices = [whole.cut(index, count) for index in range(count)]
    ids = torch.cat([part.input_ids_BL for part in slices], 1)[0]
    positions = torch.cat([part.position_ids_BL for part in slices], 1)[0]
    length = whole.input_ids_BL.shape[1]
    assert ids[:length].equal(whole.input_ids_BL[0])
    assert positions[:length].equal(whole.position_ids_BL[0])
    assert len({part.input_ids_BL.shape for part in slices}) == 1
    assert len(ids) - length < count
    start = slices[0].input_ids_BL.shape[1]
    predictors = torch.cat([part.predictors_S + index * start for index, part in enumerate(slices)])
    targets = torch.cat([part.targets_S for part in slices])
    for part in slices:
        assert part.row_slice is not None
        assert part.row_slice.counts == tuple(len(other.targets_S) for other in slices)
        assert predictors[part.row_slice.places_S].equal(whole.predictors_S)
        assert targets[part.row_slice.places_S].equal(whole.targets_S)


def batch_of(lengths: list[tuple[int, list[int]]]) -> MicroBatch:
    """Sequences of these prompts and responses, whose tokens are all different."""
    following = iter(range(1, 1000))
    made, rows = [], iter(range(100))
    for prompt, responses in lengths:
        ids = tuple(next(following) for _ in range(prompt))
        texts = tuple(tuple(next(following) for _ in range(response)) for response in responses)
        made.append(PackedSequence(ids, texts, tuple(next(rows) for _ in responses)))
    return MicroBatch(tuple(made))


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (2, 0, 4)])
def test_every_rank_has_all_outputs_and_the_gradient_of_its_own(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(ranks: SequenceRanks) -> tuple[Tensor, Tensor]:
        own = torch.full((counts[ranks.index],), float(ranks.index)).requires_grad_()
        joined = ranks.joined(own, counts)
        (gradient,) = torch.autograd.grad((joined * torch.arange(1.0, sum(counts) + 1)).sum(), own)
        return joined.detach(), gradient

    results = in_threads(len(counts), work, monkeypatch)
    expected = torch.cat([torch.full((count,), float(index)) for index, count in enumerate(counts)])
    assert all(joined.equal(expected) for joined, _ in results)
    assert torch.cat([gradient for _, gradient in results]).equal(torch.arange(1.0, sum(counts) + 1))


def test_heads_that_cannot_be_shared_are_refused_with_what_is_possible() -> None:
    SequenceRanks(0, 3).check_heads("Llama", 9)
    with pytest.raises(UserError, match="its 9 attention heads cannot be shared equally by 2 ranks; possible: 1, 3, 9"):
        SequenceRanks(0, 2).check_heads("Llama", 9)
