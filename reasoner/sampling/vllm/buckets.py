"""Weights from the learner's GPU to an engine on the same one: through one buffer there, filled again and again.

The learner owns the buffer and says once where it is; the worker maps it (CUDA IPC). Then, over a local socket:

    learner: fills the buffer, `Bucket` (what lies where)      worker: copies it out, `Taken`      ... `NoMoreBuckets`

A weight that is larger than what is left of the buffer lies in several buckets. Both sides compute a checksum on the
device from what they hold: the learner from what it put in, the worker from its own copies. All of it but `share_cuda`
and `open_cuda` is the same for any memory that two processes see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from multiprocessing.connection import Connection
from typing import Any

import torch
import xxhash
from torch import Tensor

from reasoner.errors import SamplerError

_ALIGNED = 256
"""bytes of which every weight's place in the buffer is a multiple"""
_SUMMED = 2**20
"""words of 8 bytes whose checksum is computed at once"""
_MIX = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""odd constants of the splitmix64 generator, as signed numbers"""
ANSWER_S = 600.0
"""seconds for the other side to copy a bucket, or to fill one"""


@dataclass(frozen=True, slots=True)
class SharedBuffer:
    """Where the buffer is."""

    handle: Any
    """what `open_cuda` makes of it"""
    device: str
    """the GPU's UUID"""


@dataclass(frozen=True, slots=True)
class BucketPart:
    """A weight, or a part of one, in the buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """byte of the weight that comes first"""
    place: int
    """byte of the buffer where it is"""
    size: int
    """bytes"""

    @property
    def whole(self) -> int:
        """Bytes of the whole weight."""
        return prod(self.shape) * getattr(torch, self.dtype).itemsize  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The buffer is filled."""

    parts: tuple[BucketPart, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """The buffer may be filled again."""


@dataclass(frozen=True, slots=True)
class NoMoreBuckets:
    """There are no more weights."""


@dataclass
class DeviceDigest:
    """The checksum of weights on a device, in whatever order they are added: one number of 64 bits for each."""

    _lines: list[str] = field(default_factory=list)
    _sums: list[Tensor] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a weight; nothing waits for the device."""
        self._lines.append(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
        self._sums.append(device_sum(tensor))

    @property
    def tensors(self) -> int:
        """How many were added."""
        return len(self._lines)

    @property
    def checksum(self) -> str:
        """128 bits, hexadecimal, of what was added so far."""
        sums = torch.stack(self._sums).tolist() if self._sums else []
        lines = sorted(f"{line} {value}\n" for line, value in zip(self._lines, sums, strict=True))
        return xxhash.xxh3_128("".join(lines).encode()).hexdigest()


def device_sum(tensor: Tensor) -> Tensor:
    """() int64: the sum, modulo 2^64, of the words of a tensor, each mixed with its position (splitmix64).

    Words are 8 bytes, the last one filled with zeros. The same bytes give the same number on every device; a word that
    is changed, moved or missing gives another one, but for one case in 2^64.
    """
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if rest := data.numel() % 8:
        data = torch.cat([data, data.new_zeros(8 - rest)])
    if data.storage_offset() % 8:  # a view of words begins at one
        data = data.clone()
    words, total = data.view(torch.int64), torch.zeros((), dtype=torch.int64, device=tensor.device)
    for first in range(0, words.numel(), _SUMMED):
        some = words[first : first + _SUMMED]
        places = torch.arange(first + 1, first + 1 + some.numel(), dtype=torch.int64, device=tensor.device)
        total += _mixed(some ^ _mixed(places * _MIX[0])).sum()
    return total


def _mixed(words: Tensor) -> Tensor:
    words = (words ^ _right(words, 30)) * _MIX[1]
    words = (words ^ _right(words, 27)) * _MIX[2]
    return words ^ _right(words, 31)


def _right(words: Tensor, bits: int) -> Tensor:
    """Shifted as numbers without a sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def send_weights(
    channel: Connection, buffer: Tensor, shared: SharedBuffer, weights: Iterable[tuple[str, Tensor]]
) -> DeviceDigest:
    """Put weights through the buffer; returns the checksum of what was put in.

    Args:
        buffer: (bytes,) uint8, which the other side can map.

    Raises:
        SamplerError: the other side does not answer.
        EOFError, OSError: it is gone.
    """
    digest, parts, used = DeviceDigest(), list[BucketPart](), 0

    def flush() -> None:
        nonlocal used
        if parts:
            _settle(buffer)
            channel.send(Bucket(tuple(parts)))
            _expect(channel, Taken)
            parts.clear()
            used = 0

    channel.send(shared)
    for name, tensor in weights:
        value = tensor.detach().to(buffer.device).contiguous()
        digest.add(name, value)
        data, dtype, start = value.reshape(-1).view(torch.uint8), str(value.dtype).removeprefix("torch."), 0
        while True:
            size = min(data.numel() - start, buffer.numel() - used)
            buffer[used : used + size].copy_(data[start : start + size])
            parts.append(BucketPart(name, dtype, tuple(value.shape), start, used, size))
            start, used = start + size, -(-(used + size) // _ALIGNED) * _ALIGNED
            if used >= buffer.numel():
                flush()
            if start == data.numel():
                break
    flush()
    channel.send(NoMoreBuckets())
    return digest


def received_weights(
    channel: Connection, open_buffer: Callable[[SharedBuffer], Tensor], digest: DeviceDigest
) -> Iterator[tuple[str, Tensor]]:
    """The weights that the other side sends, each a copy of its own, after it was added to `digest`.

    Raises:
        SamplerError: the other side does not answer, or its buckets do not fit together.
        EOFError: it is gone.
    """
    buffer = open_buffer(_expect(channel, SharedBuffer))
    partly: Tensor | None = None
    while isinstance(message := _next(channel), Bucket):
        for part in message.parts:
            if part.start == 0:
                partly = torch.empty(part.whole, dtype=torch.uint8, device=buffer.device)
            if partly is None or partly.numel() != part.whole or part.start + part.size > part.whole:
                raise SamplerError(f"a part of {part.name} came without its beginning; this is a bug")
            partly[part.start : part.start + part.size].copy_(buffer[part.place : part.place + part.size])
            if part.start + part.size == part.whole:
                value = partly.view(getattr(torch, part.dtype)).reshape(part.shape)
                partly = None
                digest.add(part.name, value)
                yield part.name, value
        _settle(buffer)
        channel.send(Taken())
    if not isinstance(message, NoMoreBuckets) or partly is not None:
        raise SamplerError(f"the weights ended with {message!r}; this is a bug")


def share_cuda(buffer: Tensor) -> SharedBuffer:
    """Say where a buffer on a GPU is: once for every buffer, because each export is counted.

    Raises:
        RuntimeError: the GPU, its driver or the container does not share memory between processes.
    """
    from torch.multiprocessing.reductions import reduce_tensor

    _, handle = reduce_tensor(buffer)  # type: ignore[no-untyped-call]
    return SharedBuffer(handle, str(torch.cuda.get_device_properties(buffer.device).uuid))


def open_cuda(shared: SharedBuffer) -> Tensor:
    """Map a buffer of another process.

    Raises:
        SamplerError: it is on another GPU.
        RuntimeError: it cannot be mapped.
    """
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    device = torch.cuda.current_device()
    own = str(torch.cuda.get_device_properties(device).uuid)
    if own != shared.device:
        raise SamplerError(f"the engine is on the GPU {own}, and the learner on {shared.device}")
    handle = list(shared.handle)
    handle[6] = device  # of the rebuilt tensor: the other process may number the GPUs otherwise
    return rebuild_cuda_tensor(*handle)  # type: ignore[no-untyped-call, no-any-return]


def _settle(buffer: Tensor) -> None:
    """Until what was copied from or to the buffer is there."""
    if buffer.is_cuda:
        torch.cuda.synchronize(buffer.device)


def _next(channel: Connection) -> Any:
    if not channel.poll(ANSWER_S):
        raise SamplerError(f"no answer within {ANSWER_S:.0f} s while weights were handed over on the GPU")
    return channel.recv()


def _expect(channel: Connection, kind: type[Any]) -> Any:
    message = _next(channel)
    if not isinstance(message, kind):
        raise SamplerError(f"{message!r} came where {kind.__name__} was expected; this is a bug")
    return message
