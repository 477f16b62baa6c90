"""Attention over packed sequences: by sequence, which is exact on a CPU, and by segment, as one call on a GPU.

The kernel of the second runs on CUDA alone: on the CPU a plain loop stands in for it that does what its documentation
says, and on torch's `meta` device, which knows shapes and dtypes but no numbers, the real one is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AttentionInterface

from reasoner.distributed.sharding import rows_by_group
from reasoner.learning.batching.inputs import ModelInputs, flat_inputs
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.learning.batching.shapes import Segments, SequenceShape
from reasoner.learning.model import attention
from reasoner.learning.model.attention import described_kernel, packed_attention
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from tests.ragged import ragged_groups
from tests.tiny import build_tiny_model

Parts = tuple[Tensor, Tensor, Tensor]
"""query, key and value"""
CPU = torch.device("cpu")
LAYER = nn.Identity()


Shape = tuple[int, tuple[int, ...]] | tuple[int, tuple[int, ...], tuple[int, ...]]
"""tokens of a prompt and of each piece, and which piece each continues"""


def shapes_of(*sequences: Shape) -> list[SequenceShape]:
    """Prompts and their pieces one after the other."""
    sizes = [sequence[0] + sum(sequence[1]) for sequence in sequences]
    starts = [0, *accumulate(sizes)]
    return [SequenceShape(start, *sequence) for start, sequence in zip(starts, sequences, strict=False)]


RAGGED: dict[str, list[Shape]] = {
    "one prompt alone": [(3, (2,))],
    "one token": [(1, (0,))],
    "single sequences": [(3, (5,)), (1, (1,)), (7, (2,))],
    "a shared prompt": [(4, (3, 3, 3))],
    "ragged responses": [(4, (3, 1, 6))],
    "responses of no tokens between others": [(2, (0, 4, 0))],
    "responses of no tokens alone": [(5, (0, 0))],
    "a tree": [(4, (3, 2, 5, 1), (-1, -1, 0, 0))],
    "a deep tree": [(1, (2, 3, 1, 4, 6, 1), (-1, 0, 1, 1, 2, 3))],
    "a trunk alone": [(2, (3, 4, 1), (-1, 0, 0))],
    "all of them": [
        *((4, (3, 1)), (1, (7,)), (2, (0, 0, 5)), (9, (1, 1, 1, 1)), (1, (0,))),
        *((4, (3, 2, 5, 1), (-1, -1, 0, 0)), (2, (2, 3, 1), (-1, 0, 1))),
    ],
}


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """`varlen_attn` as its documentation has it, segment by segment: causal means aligned to the last query and key."""
    assert window_size == (-1, 0)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    assert int(cu_seq_q.diff().max()) == max_q
    assert int(cu_seq_k.diff().max()) == max_k
    key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
    outputs = []
    bounds = zip(cu_seq_q[:-1], cu_seq_q[1:], cu_seq_k[:-1], cu_seq_k[1:], strict=True)
    for q0, q1, k0, k1 in bounds:
        queries, keys = int(q1 - q0), int(k1 - k0)
        assert 0 < queries <= keys
        scores = torch.einsum("qhd,khd->hqk", query[q0:q1], key[k0:k1]) * (scale or query.shape[-1] ** -0.5)
        seen = torch.arange(keys) <= torch.arange(queries).unsqueeze(1) + keys - queries
        probs = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", probs, value[k0:k1]))
    return torch.cat(outputs)


def heads(tokens: int, queries: int, keys: int, dimensions: int = 8) -> Parts:
    generator = torch.Generator().manual_seed(tokens)

    def part(count: int) -> Tensor:
        shape = (1, count, tokens, dimensions)
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    return part(queries), part(keys), part(keys)


def both(shapes: Sequence[SequenceShape], parts: Parts, scaling: float | None) -> list[list[Tensor]]:
    """Output and gradients by sequence, and by segment."""
    result = []
    segments = Segments.of(shapes, CPU)
    for output in (
        attention._by_sequence(*parts, shapes, scaling),
        attention._by_segment(*parts, segments, scaling),
    ):
        weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
        result.append([output, *torch.autograd.grad((output * weights).sum(), parts)])
    return result


@pytest.fixture
def plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_kernel", reference)
    monkeypatch.setattr(attention, "_PARAMETERS", frozenset({"scale", "window_size", "enable_gqa"}))


@pytest.mark.usefixtures("plain_kernel")
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("name", RAGGED)
def test_by_segment_is_by_sequence(name: str, queries: int, keys: int, scaling: float | None) -> None:
    shapes = shapes_of(*RAGGED[name])
    tokens = shapes[-1].start + shapes[-1].tokens
    by_sequence, by_segment = both(shapes, heads(tokens, queries, keys), scaling)
    for a, b in zip(by_sequence, by_segment, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@st.composite
def trees(draw: st.DrawFn) -> Shape:
    """Pieces in the order in which they lie: those that continue the same one are neighbours, after it."""
    parents: list[int] = []
    for parent in range(-1, 3):
        if parent < len(parents):
            parents += [parent] * draw(st.integers(parent < 0, 3))
    pieces = tuple(draw(st.integers(1, 6)) for _ in parents)
    return draw(st.integers(1, 9)), pieces, tuple(parents)


SEQUENCES = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)) | trees(),
    min_size=1,
    max_size=4,
)


@given(SEQUENCES)
def test_queries_are_the_flat_input_and_keys_what_each_of_them_sees(sequences: list[Any]) -> None:
    """By the definition: a token sees its prompt, the pieces that its own one continues, and what is before it in its
    own piece, itself included."""
    shapes = shapes_of(*sequences)
    segments = Segments.of(shapes, CPU)
    tokens = sum(segments.pieces)
    places = segments.gather(torch.arange(tokens).view(-1, 1, 1)).flatten().tolist()
    queries, keys = segments.queries.tolist(), segments.keys.tolist()
    assert (queries[-1], keys[-1]) == (tokens, len(places))
    seen: dict[int, list[int]] = {}
    for segment in range(len(queries) - 1):
        (q0, q1), (k0, k1) = queries[segment : segment + 2], keys[segment : segment + 2]
        seen |= {q: places[k0 : k1 - (q1 - 1 - q)] for q in range(q0, q1)}
    expected: dict[int, list[int]] = {}
    for shape in shapes:
        prompt = list(range(shape.start, shape.start + shape.prompt))
        expected |= {place: prompt[: n + 1] for n, place in enumerate(prompt)}
        first = shape.start + shape.prompt
        before = {-1: prompt}
        for piece, (length, parent) in enumerate(zip(shape.pieces, shape.parents or [-1] * 9, strict=False)):
            before[piece] = before[parent] + list(range(first, first + length))
            expected |= {
                first + n: before[parent] + before[piece][len(before[parent]) :][: n + 1] for n in range(length)
            }
            first += length
    assert seen == expected


def test_keys_of_single_sequences_are_not_copied() -> None:
    parts = torch.randn(9, 2, 8)
    assert Segments.of(shapes_of((3, (2,)), (1, (3,))), CPU).gather(parts) is parts


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What torch's own kernel is called with: its arguments, and then its keywords."""
    result: list[tuple[Any, ...]] = []
    kernel = attention._kernel
    assert kernel is not None

    def noted(*arguments: Any, **options: Any) -> Any:
        result.append((arguments, options))
        return kernel(*arguments, **options)

    monkeypatch.setattr(attention, "_kernel", noted)
    return result


def on_gpu(
    queries: torch.dtype, values: torch.dtype, dimensions: tuple[int, int] = (64, 64)
) -> tuple[Parts, list[SequenceShape], Segments]:
    """As a model gives them on a GPU, without numbers: query and key have been rotated, value not."""
    shapes = shapes_of((4, (3, 5)), (2, (6,)))

    def part(count: int, dtype: torch.dtype, size: int) -> Tensor:
        return torch.empty(1, count, 20, size, dtype=dtype, device="meta", requires_grad=True)

    parts = part(14, queries, dimensions[0]), part(2, queries, dimensions[0]), part(2, values, dimensions[1])
    return parts, shapes, Segments.of(shapes, torch.device("meta"))


@pytest.mark.parametrize("queries", [torch.float32, torch.bfloat16])
def test_on_a_gpu_all_of_a_micro_batch_is_one_call_in_the_numbers_of_the_values(
    called: list[tuple[Any, ...]], queries: torch.dtype
) -> None:
    """Autocast does not reach the kernel, and rotary embeddings leave queries and keys in float32."""
    parts, shapes, segments = on_gpu(queries, torch.bfloat16)
    output, _ = packed_attention(LAYER, *parts, None, 0.125, shapes, segments)
    assert (output.shape, output.dtype) == ((1, 20, 14, 64), torch.bfloat16)
    ((query, key, value, *bounds), options), *more = called
    assert not more
    assert {part.dtype for part in (query, key, value)} == {torch.bfloat16}
    assert (query.shape, key.shape, value.shape) == ((20, 14, 64), (28, 2, 64), (28, 2, 64))
    assert [part.dtype for part in bounds[:2]] == [torch.int32, torch.int32]
    assert bounds[2:] == [8, 9]
    assert options == {"scale": 0.125, "window_size": (-1, 0), "enable_gqa": True}
    gradients = torch.autograd.grad(output.sum(), parts)
    assert [(part.dtype, part.shape) for part in gradients] == [(part.dtype, part.shape) for part in parts]


@pytest.mark.parametrize(
    ("dtype", "dimensions"),
    [
        (torch.float32, (64, 64)),
        (torch.bfloat16, (64, 32)),
        (torch.bfloat16, (20, 20)),
        (torch.bfloat16, (512, 512)),
    ],
    ids=["float32", "keys and values of different sizes", "not in eights", "too large"],
)
def test_what_the_kernel_does_not_take_goes_by_sequence(
    monkeypatch: pytest.MonkeyPatch, called: list[tuple[Any, ...]], dtype: torch.dtype, dimensions: tuple[int, int]
) -> None:
    """Grouped heads are repeated: with a mask they would have a kernel that holds all scores."""
    products: list[tuple[int, ...]] = []

    def noted(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        products.append((query.shape[1], key.shape[1], value.shape[1]))
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    monkeypatch.setattr(attention, "scaled_dot_product_attention", noted)
    parts, shapes, segments = on_gpu(dtype, dtype, dimensions)
    packed_attention(LAYER, *parts, None, None, shapes, segments)
    assert not called
    assert products == [(14, 14, 14)] * 3


def test_on_a_gpu_by_sequence_has_the_numbers_of_the_values_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a torch that has no such kernel yet."""
    dtypes: set[torch.dtype] = set()

    def noted(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        dtypes.update((query.dtype, key.dtype, value.dtype))
        return torch.empty_like(query)

    monkeypatch.setattr(attention, "_BY_SEGMENT", False)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", noted)
    parts, shapes, segments = on_gpu(torch.float32, torch.bfloat16)
    packed_attention(LAYER, *parts, None, None, shapes, segments)
    assert dtypes == {torch.bfloat16}


def test_the_log_says_which_attention_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert described_kernel(CPU, "bfloat16") == described_kernel(gpu, "float32") == "by sequence"
    assert described_kernel(gpu, "bfloat16") == "by segment"
    monkeypatch.setattr(attention, "_BY_SEGMENT", False)
    assert "has no varlen_attn" in described_kernel(gpu, "bfloat16")


def test_segments_belong_to_inputs_on_a_gpu() -> None:
    batch = MicroBatch((PackedSequence((1, 2), ((7, 8, 9), (5, 6)), rows=(0, 1)),))
    assert flat_inputs(batch, CPU).segments is None
    segments = flat_inputs(batch, torch.device("meta")).segments
    assert segments is not None
    assert (segments.pieces, segments.queries.device.type) == ((2, 2, 1), "meta")


def _with_segments(inputs: ModelInputs) -> ModelInputs:
    assert inputs.shapes is not None
    return replace(inputs, segments=Segments.of(inputs.shapes, CPU))


@pytest.mark.usefixtures("plain_kernel")
def test_a_model_gives_the_same_by_segment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through transformers: the segments reach every layer, and log-probabilities are those by sequence."""
    options: dict[str, Any] = {"token_budget": 200, "logit_chunk": 64, "share_prompts": "always"}
    policy = TorchPolicy(build_tiny_model(tmp_path), ModelOptions(device="cpu", dtype="float64", **options))
    groups = ragged_groups()
    expected = policy.logprobs(groups, 1.0)
    used: list[Segments] = []

    def by_segment(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        used.append(kwargs["segments"])
        return attention._by_segment(query, key, value, kwargs["segments"], kwargs["scaling"]), None

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.IMPLEMENTATION, by_segment)
    inner = policy.inputs
    monkeypatch.setattr(policy, "inputs", lambda batch: _with_segments(inner(batch)))
    assert policy.logprobs(groups, 1.0) == [pytest.approx(row, abs=1e-10) for row in expected]
    layers = policy.model.config.num_hidden_layers
    assert len(used) == layers * len(policy.packing.micro_batches(rows_by_group(groups)))
