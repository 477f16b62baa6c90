"""Tensors in safetensors files.

Published weights: one file with Hugging Face names, and a checksum that its reader computes for itself.

    checksum = SHA-256 over the tensors in order of their names: name, dtype, shape, then the raw little-endian bytes

An optimiser's state: several files, none of them large.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
SHARD_BYTES = 2**30
"""size of a file of several: as much memory is needed beside the tensors while it is written"""


@dataclass
class Digest:
    """The checksum of tensors that are added in order of their names."""

    tensors: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, name: str, tensor: Tensor) -> None:
        """Add the next tensor, which must be on the CPU and contiguous."""
        self._hash.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        self._hash.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        self.tensors += 1

    @property
    def checksum(self) -> str:
        """Hexadecimal SHA-256 of what was added so far."""
        return str(self._hash.hexdigest())


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write the tensors into `folder` and return their checksum.

    Tensors that share memory (a tied output layer) are written as if they did not: who reads them may hold copies. The
    caller names `lm_head.weight` even where it is the embedding, because vLLM packs its own copy of it and would keep
    the old one.

    Raises:
        OSError: ENOSPC, before anything is written, when the tensors do not fit.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if size >= free:
        raise OSError(
            errno.ENOSPC, f"weights of {size / 2**30:.2f} GiB do not fit into {free / 2**30:.2f} GiB", str(folder)
        )
    owned = _without_sharing(tensors)
    digest = Digest()
    for name in sorted(owned):
        digest.add(name, owned[name])
    with io_errors():
        save_file(owned, folder / WEIGHTS_FILE)
    return digest.checksum


def read_weights(folder: Path, digest: Digest) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of `folder` in order of its name, after adding it to `digest`."""
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest.add(name, tensor)
            yield name, tensor


def count_weights(folder: Path) -> int:
    """How many tensors the file in `folder` names."""
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        return len(file.keys())


def count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a model, read from their headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def write_shards(folder: Path, stem: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write the tensors exactly as they are to `<stem>-00001.safetensors` and on, a few at a time."""
    with io_errors():
        for number, shard in enumerate(_shards(tensors), 1):
            save_file(shard, folder / f"{stem}-{number:05}.safetensors")


def read_files(folder: Path, stem: str = "*") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the safetensors files `<stem>` in a folder, on the CPU."""
    for path in sorted(folder.glob(f"{stem}.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield name, file.get_tensor(name)


@contextmanager
def io_errors() -> Iterator[None]:
    """A full disk is an `OSError`, as it is everywhere else: safetensors raises an error of its own.

    Raises:
        OSError: what safetensors says that the system said.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().to("cpu").contiguous()
        size += tensor.nbytes
    yield shard


def _without_sharing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        host = tensor.detach().to("cpu").contiguous()
        storage = host.untyped_storage().data_ptr()
        owned[name] = host.clone() if storage in seen else host
        seen.add(storage)
    return owned
