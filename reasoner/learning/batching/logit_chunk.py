"""How many response positions have their logits in memory at once, where that is left open."""

from __future__ import annotations

_ON_CPU = 256
"""positions; more of them gain nothing there"""
_OF_GPU = 1 / 50
"""share of a GPU's memory that the float32 logits of a chunk may take"""
_FEWEST, _MOST = 256, 16384
"""positions"""


def choose_logit_chunk(configured: int | None, gpu_bytes: float, vocabulary: int) -> int:
    """Response positions whose logits are in memory at once.

    Every chunk reads the whole weight of the output layer and, in the backward pass, adds to its whole gradient: with
    few positions a GPU does little else. So there a chunk takes what memory allows, in powers of two.

    >>> choose_logit_chunk(None, 0, 151936)  # a CPU
    256
    >>> [choose_logit_chunk(None, gib * 2**30, 151936) for gib in (24, 80, 141)]
    [512, 2048, 4096]
    >>> choose_logit_chunk(64, 80 * 2**30, 151936)
    64

    Args:
        configured: `learning.logit_chunk`.
        gpu_bytes: memory of the GPU; 0: there is none.
        vocabulary: tokens.
    """
    if configured is not None:
        return configured
    if not gpu_bytes:
        return _ON_CPU
    positions = int(gpu_bytes * _OF_GPU / (4 * vocabulary))
    return min(max(_FEWEST, 1 << max(0, positions.bit_length() - 1)), _MOST)
