"""Sequence parallelism: neighbouring ranks put one row through the model together (DeepSpeed-Ulysses, 2309.14509).

The flat input of a micro-batch is cut into equal slices, one for each of the k neighbours. What a layer does token by
token it does on the slice. Attention needs all tokens: before it the ranks exchange slices of the row for shares of the
heads, so that each has the whole row for its heads, and afterwards the other way round:

    (1, heads, L / k, D) -> (1, heads / k, L, D) -> attention -> (1, L, heads / k, D) -> (1, L / k, heads, D)

Attention sees whole rows, so they keep their packed sequences and shared prompts. Where there are fewer key-value heads
than ranks, each of them is there several times. The outputs of all slices are gathered before the loss: every rank
computes the same weights, and the gradient of its own slice.

Legend: L tokens of a row, filled up to a multiple of k; D size of a head; S response tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from reasoner.distributed.ranks import Ranks
from reasoner.errors import UserError


@dataclass(frozen=True, slots=True)
class SequenceRanks:
    """This process among the ranks that share rows with it."""

    index: int = 0
    count: int = 1
    group: Any = field(default=None, repr=False, compare=False)
    """Their process group; None: rows are not shared."""

    @classmethod
    def of(cls, ranks: Ranks) -> SequenceRanks:
        """The neighbours of this rank."""
        return cls(ranks.index % ranks.per_row, ranks.per_row, ranks.row_group)

    def check_heads(self, name: str, heads: int) -> None:
        """Whether so many query heads can be shared equally.

        Raises:
            UserError: they cannot.
        """
        if heads % self.count:
            possible = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
            raise UserError(
                f"learning.sequence_parallel = {self.count} is impossible for {name}: its {heads} attention heads "
                f"cannot be shared equally by {self.count} ranks; possible: {possible}"
            )

    def whole_row(self, part: Tensor, length: int) -> Tensor:
        """(1, heads, L / k, D) of this rank's slice -> (1, heads / k, length, D) of its heads, with gradient.

        Args:
            length: of the row, without what fills it up.
        """
        _, heads, tokens, size = part.shape
        copies = self.count // gcd(heads, self.count)
        if copies > 1:
            part, heads = part.repeat_interleave(copies, 1), heads * copies
        blocks = self._exchanged(part.reshape(self.count, heads // self.count, tokens, size))
        return blocks.transpose(0, 1).reshape(1, heads // self.count, self.count * tokens, size)[:, :, :length]

    def own_slice(self, part: Tensor) -> Tensor:
        """(1, length, heads / k, D) of this rank's heads -> (1, L / k, heads, D) of its slice, with gradient."""
        _, length, heads, size = part.shape
        tokens = -(-length // self.count)
        part = pad(part[0], (0, 0, 0, 0, 0, tokens * self.count - length))
        blocks = self._exchanged(part.reshape(self.count, tokens, heads, size))
        return blocks.transpose(0, 1).reshape(1, tokens, self.count * heads, size)

    def joined(self, part: Tensor, counts: Sequence[int]) -> Tensor:
        """(S_r, ...) of every rank -> (S, ...), one after the other, on each of them.

        The gradient of a rank is that of its own part: the losses of all k have all outputs, and their sum would
        otherwise count every output k times.

        Args:
            counts: S_r of every rank.
        """
        joined: Tensor = _Join.apply(part, tuple(counts), self.index, self.group)  # type: ignore[no-untyped-call]
        return joined

    def _exchanged(self, blocks: Tensor) -> Tensor:
        """Block r of this rank goes to rank r; block r of the result is what rank r sent."""
        exchanged: Tensor = _Exchange.apply(blocks, self.group)  # type: ignore[no-untyped-call]
        return exchanged


WHOLE = SequenceRanks()
"""Every rank has whole rows."""


class _Exchange(torch.autograd.Function):
    """All-to-all over the first dimension; its gradient is the same exchange of the gradients."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_to_all(blocks, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(gradient, ctx.group), None


class _Join(torch.autograd.Function):
    """All-gather of parts of different lengths; the gradient of a part is that of its own place."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, counts: tuple[int, ...], index: int, group: Any) -> Tensor:
        ctx.start, ctx.stop = sum(counts[:index]), sum(counts[: index + 1])
        most = max(counts)
        filled = torch.zeros(most, *part.shape[1:], dtype=part.dtype, device=part.device)
        filled[: len(part)] = part
        parts = [torch.empty_like(filled) for _ in counts]
        dist.all_gather(parts, filled, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient[ctx.start : ctx.stop].contiguous(), None, None, None


def _all_to_all(blocks: Tensor, group: Any) -> Tensor:
    received = torch.empty_like(blocks, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, blocks.contiguous(), group=group)
    return received
