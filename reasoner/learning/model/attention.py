"""Exact attention over packed sequences that are laid one after the other, without a mask of the whole.

In a packed sequence a prompt token sees the prompt before it; a token of a response sees the whole prompt and its own
response before it, which may be in pieces that several responses have (`shapes.py`). The work is that of the allowed
pairs, where a masked (tokens x tokens) call pays for every pair of responses. There are two ways:

    by segment      one call of torch's kernel for sequences of varying length for a whole micro-batch (`Segments`): on
                    CUDA, in 16 bits
    by sequence     a call for the prompt by itself (causal), and one for all responses as a batch that reads the
                    prompt's keys and values; where responses begin alike, one for all that continue the same piece. On
                    a CPU, a 75-token prompt with eight responses of 64 tokens takes 11 ms a layer, forward and
                    backward, instead of 87 to 170

It is registered with transformers as an attention implementation; the shapes travel as keyword arguments through the
model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from reasoner.errors import RunError
from reasoner.learning.batching.shapes import Segments, SequenceShape
from reasoner.learning.sequence_parallel import SequenceRanks

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    _kernel: Callable[..., Any] | None = None
else:
    _kernel = varlen.varlen_attn

IMPLEMENTATION = "reasoner_packed"


class CannotPackError(RunError):
    """A model asks for attention that packed sequences do not have."""


_PARAMETERS = frozenset(inspect.signature(_kernel).parameters) if _kernel else frozenset[str]()
_BY_SEGMENT = {"scale", "window_size"} <= _PARAMETERS
"""whether torch's kernel can be told all that is needed (torch 2.11)"""
_WIDTHS = (torch.bfloat16, torch.float16)
_MOST_DIMENSIONS = 256
"""of a head, in eights, that flash attention takes"""
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias", "cache")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sequence_shapes: Sequence[SequenceShape] | None = None,
    segments: Segments | None = None,
    sequence_ranks: SequenceRanks | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention inside every packed sequence: query (1, heads, L, D), key and value (1, kv heads, L, D) ->
    (1, L, heads, D).

    With `sequence_ranks` L is a slice of the row, here and there.

    Raises CannotPackError when the model asks for something that this function would ignore.
    """
    unsupported = [f"with {name}" for name in _UNSUPPORTED if options.get(name) is not None]
    unsupported += ["with a mask"] if attention_mask is not None else []
    unsupported += ["with dropout"] if options.get("dropout") else []
    if unsupported or sequence_shapes is None:
        raise CannotPackError(
            f"{type(module).__name__} calls attention "
            f"{', '.join(unsupported) or 'without saying where sequences begin'}"
        )
    if sequence_ranks is not None:
        last = sequence_shapes[-1]
        query, key, value = (sequence_ranks.whole_row(part, _span(last).stop) for part in (query, key, value))
        output, _ = packed_attention(module, query, key, value, None, scaling, sequence_shapes, segments)
        return sequence_ranks.own_slice(output), None
    if query.device.type == "cpu":
        return _by_sequence(query, key, value, sequence_shapes, scaling), None
    # Rotary embeddings multiply with float32 cosines: under autocast queries and keys come in float32, values do not.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if segments is not None and _is_taken_by_segment(query, value):
        return _by_segment(query, key, value, segments, scaling), None
    if key.shape[1] != query.shape[1]:
        # Off the CPU, grouped heads with a mask fall back to a kernel that holds all scores.
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return _by_sequence(query, key, value, sequence_shapes, scaling), None


def described_kernel(device: torch.device, dtype: str) -> str:
    """How attention is computed, for the log."""
    if device.type == "cpu" or dtype != "bfloat16":
        return "by sequence"
    return "by segment" if _BY_SEGMENT else f"by sequence, because torch {torch.__version__} has no varlen_attn"


def _is_taken_by_segment(query: Tensor, value: Tensor) -> bool:
    """Whether flash attention has these numbers and heads."""
    size = query.shape[-1]
    fits = size == value.shape[-1] and size % 8 == 0 and size <= _MOST_DIMENSIONS
    return _BY_SEGMENT and fits and value.dtype in _WIDTHS


def _by_segment(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None) -> Tensor:
    """(1, L, heads, D) in one call."""
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    grouped = {"enable_gqa": key.shape[1] != query.shape[1]} if "enable_gqa" in _PARAMETERS else {}
    assert _kernel is not None
    output: Tensor = _kernel(
        query,
        segments.gather(key),
        segments.gather(value),
        segments.queries,
        segments.keys,
        segments.most_queries,
        segments.most_keys,
        scale=scaling,
        window_size=(-1, 0),  # causal
        **grouped,
    )
    return output.unsqueeze(0)


def _by_sequence(
    query: Tensor, key: Tensor, value: Tensor, shapes: Sequence[SequenceShape], scaling: float | None
) -> Tensor:
    """(1, L, heads, D), sequence by sequence."""
    heads_last = tuple(part[0].transpose(0, 1) for part in (query, key, value))
    outputs = [_sequence(shape, [part[_span(shape)] for part in heads_last], scaling) for shape in shapes]
    return torch.cat(outputs).unsqueeze(0)


def _span(shape: SequenceShape) -> slice:
    return slice(shape.start, shape.start + shape.tokens)


def _sequence(shape: SequenceShape, parts: Sequence[Tensor], scaling: float | None) -> Tensor:
    """(L, heads, D) of one sequence from its query, key and value (L, heads, D)."""
    query, key, value = (part.unsqueeze(0) for part in parts)
    if len(shape.pieces) == 1:
        return _attend(query, key, value, scaling, None)[0]
    prompts = [part[:, : shape.prompt] for part in (query, key, value)]
    outputs = [_attend(prompts[0], prompts[1], prompts[2], scaling, None)[0]]
    before = {-1: (prompts[1], prompts[2])}
    """keys and values (1, L, heads, D) up to the end of each piece that others continue"""
    parents = {parent for parent, _ in shape.families}
    end = shape.prompt
    for parent, places in shape.families:
        lengths = [shape.pieces[place] for place in places]
        family = [part[end : end + sum(lengths)] for part in parts]
        end += sum(lengths)
        if not any(lengths):
            continue
        outputs.append(_siblings(family, before[parent], lengths, scaling))
        for place, own_key, own_value in zip(places, *(torch.split(part, lengths) for part in family[1:]), strict=True):
            if place in parents:
                own = own_key.unsqueeze(0), own_value.unsqueeze(0)
                before[place] = _joined(before[parent], own)
    return torch.cat(outputs)


def _joined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys and values (B, L, heads, D), one after the other."""
    return torch.cat([first[0], second[0]], dim=1), torch.cat([first[1], second[1]], dim=1)


def _siblings(
    parts: Sequence[Tensor], before: tuple[Tensor, Tensor], lengths: Sequence[int], scaling: float | None
) -> Tensor:
    """(S, heads, D) of pieces that continue the same tokens.

    Args:
        parts: their query, key and value (S, heads, D), one piece after the other.
        before: key and value (1, L, heads, D) of the tokens that they continue.
        lengths: tokens of each piece.
    """
    count, longest, seen = len(lengths), max(lengths), before[0].shape[1]
    query, key, value = (_batched(part, lengths) for part in parts)
    key, value = _joined((before[0].expand(count, -1, -1, -1), before[1].expand(count, -1, -1, -1)), (key, value))
    # Padding is on the right, where causality hides it from every real token: one mask serves all pieces.
    mask = torch.ones(longest, seen + longest, dtype=torch.bool, device=query.device).tril(seen)
    output_GTHD = _attend(query, key, value, scaling, mask)
    return torch.cat([output_GTHD[i, :length] for i, length in enumerate(lengths)])


def _batched(part_SHD: Tensor, lengths: Sequence[int]) -> Tensor:
    """(S, heads, D) -> (responses, longest, heads, D), zeros on the right."""
    if len(set(lengths)) == 1:
        return part_SHD.reshape(len(lengths), lengths[0], *part_SHD.shape[1:])
    return pad_sequence(list(torch.split(part_SHD, list(lengths))), batch_first=True)


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: Tensor | None) -> Tensor:
    """(B, L, heads, D) -> the same; causal without a mask."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and query.shape[2] > 1,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return output.transpose(1, 2)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
