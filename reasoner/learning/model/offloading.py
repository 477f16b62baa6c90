"""Recomputed layers whose inputs wait for the backward pass in host memory.

With recomputation autograd keeps the input of every layer, H numbers a token: of a row of 64k tokens through 32 layers
of width 4,096 16 GiB in bfloat16. Each is copied into pinned host memory when its layer is done, and back when the
backward pass comes to it. Both copies are waited for on the GPU's own stream: 0.5 GiB a layer of that row, at 25 GB/s
and more 20 ms, where the layer itself computes for ten times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Kept = Tensor | tuple[torch.device, Tensor]
"""What autograd has instead of a tensor: itself, or where it was and its copy in host memory."""


class HiddenStatesOffload(saved_tensors_hooks):
    """While it is open, hidden states that autograd saves go to host memory; everything else stays where it is.

    The order of the axes says what hidden states are: (rows, tokens, H). Rotary embeddings, which every layer saves and
    all layers share, are narrower, and weights have two axes.
    """

    def __init__(self, hidden_size: int, *, pin: bool) -> None:
        """Prepare it.

        Args:
            hidden_size: H.
            pin: whether host memory is page-locked; without, copies are five to ten times slower.
        """
        self._hidden_size = hidden_size
        self._pin = pin
        super().__init__(self._pack, self._unpack)

    def _pack(self, value: Tensor) -> Kept:
        if value.dim() != 3 or value.shape[-1] != self._hidden_size or not value.is_floating_point():
            return value
        copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=self._pin)
        return value.device, copy.copy_(value)

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        device, copy = kept
        value: Tensor = copy.to(device, non_blocking=self._pin)
        return value
