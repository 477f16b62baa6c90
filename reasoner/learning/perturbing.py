"""Weights that are changed on purpose for a while, so that somebody else can be seen to have taken them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

_LEAST = 0.01
"""size that a weight's elements count as having at least: many biases and some norms are zero at first"""

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[object]]


@contextmanager
def perturbed(
    parameters: Mapping[str, nn.Parameter],
    sizes: Mapping[str, float],
    gather: Gather = lambda parameters: nullcontext(),
) -> Iterator[None]:
    """Meanwhile, add noise to every weight that `sizes` names, so many times the root mean square of its own elements;
    afterwards they are exactly the old ones. The noise depends on the weight's name alone.

    The noise of a matrix is the outer product of two random vectors: as good as independent noise for what a
    perturbation is for, and made on the CPU, the same on every rank and device, in no time.

    Args:
        gather: a context in which these parameters are whole and changes to them stay (ZeRO 3).
    """
    kept: dict[str, Tensor] = {}
    try:
        for name, size in sizes.items():
            with torch.no_grad(), gather([parameters[name]]):
                value = parameters[name].data
                kept[name] = value.to("cpu", copy=True)
                value.add_(noise(name, value), alpha=size * max(_rms(value), _LEAST))
        yield
    finally:
        for name, before in kept.items():
            with torch.no_grad(), gather([parameters[name]]):
                parameters[name].data.copy_(before)


def noise(name: str, like: Tensor) -> Tensor:
    """Random numbers of variance 1 in the shape of `like`: an outer product of random vectors, the same for a name.

    >>> like = torch.zeros(2, 3)
    >>> noise("a.weight", like).shape, torch.equal(noise("a.weight", like), noise("a.weight", like))
    (torch.Size([2, 3]), True)
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    found = torch.ones((), device=like.device)
    for length in like.shape:
        vector = torch.randn(length, generator=generator)
        found = found[..., None] * vector.to(like.device)
    return found.to(like.dtype)


def _rms(value: Tensor) -> float:
    return float(value.float().square().mean().sqrt()) if value.numel() else 0.0
