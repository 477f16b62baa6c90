"""Values from rank to rank: pickled, but for arrays, whose numbers go from memory to memory.

`torch.distributed.all_gather_object` copies every value several times and makes those of all ranks as long as the
longest. Here the buffers of arrays (of `TokenArray` and numpy) are sent as they are, and those that arrive are parts of
what was received; a rank that has much to say makes the others receive that, and not more of the rest.

The bytes of a value: the number of its buffers and their sizes (int64), then the buffers, each from a multiple of 8
bytes on; the first is the pickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_PADDED_BYTES = 2**16
"""up to which values are made equally long: one call instead of one for each rank"""


def pack(value: Any) -> Tensor:
    """The bytes of a value."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = np.array([len(parts), *(part.nbytes for part in parts)], dtype=np.int64)
    packed = np.zeros(sizes.nbytes + int(_aligned(sizes[1:]).sum()), dtype=np.uint8)
    packed[: sizes.nbytes] = sizes.view(np.uint8)
    at = sizes.nbytes
    for part in parts:
        packed[at : at + part.nbytes] = np.frombuffer(part, np.uint8)
        at += int(_aligned(part.nbytes))
    return torch.from_numpy(packed)


def unpack(packed: Tensor) -> Any:
    """The value; its arrays are parts of `packed`, which must not be changed any more. More bytes may follow."""
    data = packed.numpy()
    count = int(data[:8].view(np.int64)[0])
    sizes = data[8 : 8 + 8 * count].view(np.int64)
    ends = 8 + 8 * count + np.cumsum(_aligned(sizes))
    starts = ends - _aligned(sizes)
    head, *buffers = (data[at : at + size].data for at, size in zip(starts, sizes, strict=True))
    return pickle.loads(head, buffers=buffers)


def all_gather(value: T, count: int, rank: int, group: Any) -> list[T]:
    """The values of all ranks, on every rank."""
    own = pack(value)
    lengths = _lengths(own, count, group)
    if max(lengths) <= _PADDED_BYTES:
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(own)] = own
        received = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(received, padded, group=group)
    else:
        received = [own if at == rank else torch.empty(size, dtype=torch.uint8) for at, size in enumerate(lengths)]
        for at, tensor in enumerate(received):
            dist.broadcast(tensor, at, group)
    return [value if at == rank else unpack(tensor) for at, tensor in enumerate(received)]


def gather(value: T, count: int, rank: int, group: Any) -> list[T]:
    """The values of all ranks on the first one; its own on every other."""
    own = pack(value)
    lengths = _lengths(own, count, group)
    if rank:
        dist.send(own, 0, group)
        return [value]
    values = [value]
    for source, size in enumerate(lengths[1:], 1):
        received = torch.empty(size, dtype=torch.uint8)
        dist.recv(received, source, group)
        values.append(unpack(received))
    return values


def all_to_all(values: Sequence[T], count: int, rank: int, group: Any) -> list[T]:
    """What every rank has for this one, in the order of the ranks; `values[other]` goes to the rank `other` alone."""
    nothing = torch.empty(0, dtype=torch.uint8)
    packed = [nothing if other == rank else pack(value) for other, value in enumerate(values)]
    sent = torch.tensor([len(part) for part in packed])
    table = [torch.empty_like(sent) for _ in range(count)]
    dist.all_gather(table, sent, group=group)
    lengths = [int(row[rank]) for row in table]
    received = torch.empty(sum(lengths), dtype=torch.uint8)
    dist.all_to_all_single(received, torch.cat(packed), lengths, sent.tolist(), group=group)
    ends = list(accumulate(lengths, initial=0))
    return [
        values[rank] if at == rank else unpack(received[start:end]) for at, (start, end) in enumerate(pairwise(ends))
    ]


def _lengths(own: Tensor, count: int, group: Any) -> list[int]:
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count)]
    dist.all_gather(lengths, torch.tensor([len(own)]), group=group)
    return [int(length) for length in lengths]


def _aligned(size: Any) -> Any:
    return (size + 7) // 8 * 8
