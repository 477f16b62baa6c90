"""Rotary embeddings whose frequencies depend on how long a sequence is: computed for every sequence by itself.

`longrope` (Phi) has one set of frequencies for sequences up to the original context and another beyond it; `dynamic`
stretches them with the length. transformers takes the longest sequence of a batch for all of it, and `dynamic` also
remembers the longest one that it ever saw: log-probabilities would depend on what else is in the micro-batch. Here the
embedding is called once per sequence, as a forward pass over that sequence alone would call it.

vLLM decides once for all sequences: with `longrope` it takes the frequencies for long ones wherever its longest
sequence could be one. `rotate_as_vllm` does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_BY_LENGTH = {"longrope", "dynamic"}
_LONGEST = "longest_sequence"
"""attribute of a rotary embedding: tokens of the longest sequence that there could be"""


def separate_sequences(model: nn.Module) -> bool:
    """Have the model's rotary embeddings take every sequence by itself; returns whether they depend on its length.

    A sequence begins wherever position 0 is, so a prompt cannot be shared by responses of different length, and
    padding must not have positions beyond its sequence.
    """
    modules = [module for module in model.modules() if _by_length(module)]
    for module in modules:
        module.forward = partial(_one_by_one, module, module.forward)
    return bool(modules)


def rotate_as_vllm(model: nn.Module, max_model_len: int) -> None:
    """Take the frequencies that a vLLM engine takes for sequences of up to `max_model_len` tokens.

    For a model of `separate_sequences`; with another rotary embedding than `longrope` nothing changes.
    """
    for module in model.modules():
        if getattr(module, "rope_type", None) == "longrope":
            setattr(module, _LONGEST, max_model_len)


def _by_length(module: Any) -> bool:
    kinds = getattr(module, "rope_type", None)
    return not _BY_LENGTH.isdisjoint(kinds.values() if isinstance(kinds, dict) else [kinds])


def _one_by_one(
    module: Any,
    forward: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    position_ids: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, L, D) of all sequences in `position_ids` (B, L)."""

    def embed(sequence: Tensor) -> tuple[Tensor, Tensor]:
        _forget(module)
        longest = getattr(module, _LONGEST, 0)
        if not longest:
            return forward(x, sequence, *args, **kwargs)
        # A further position, which is cut off again, has the longest sequence decide.
        furthest = sequence.new_full((1, 1), longest - 1)
        cosines, sines = forward(x, torch.cat([sequence, furthest], 1), *args, **kwargs)
        return cosines[:, :-1], sines[:, :-1]

    rows = [[embed(sequence) for sequence in _sequences(row)] for row in position_ids]
    cosines, sines = (torch.cat([torch.cat([pair[which] for pair in row], 1) for row in rows]) for which in (0, 1))
    return cosines, sines


def _sequences(positions_L: Tensor) -> Iterator[Tensor]:
    """(1, length) positions of each sequence that is laid into one row."""
    starts = (positions_L == 0).nonzero().flatten().tolist()
    for start, end in zip(starts, [*starts[1:], len(positions_L)], strict=True):
        yield positions_L[None, start:end]


def _forget(module: Any) -> None:
    """Drop what the embedding remembers of longer sequences."""
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
    for name, value in list(module.named_buffers(recurse=False)):
        if name.endswith("original_inv_freq"):
            module.register_buffer(name.replace("original_", ""), value, persistent=False)
