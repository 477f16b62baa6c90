"""Tensors in safetensors files, none of them large: beside the tensors there is never more than one file of memory.

Published weights have Hugging Face names and a checksum that their reader computes for itself:

    checksum = XXH3 over the lines `name XXH3(dtype, shape, raw little-endian bytes)`, sorted by name

so it depends neither on the order in which they are written or read, nor on the files that they are in. With an
adapter, one more line has the XXH3 of the file that says how it is added. It tells stale or damaged weights from new
ones. It does not withstand an attacker, who could write the files as well.

An adapter is published as peft writes one. Who has the model that it is beside can add it to that (`merged_weights`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reasoner.config import LoraConfig
from reasoner.errors import DataError
from reasoner.io.parsing import read_model_json
from reasoner.io.serialization import shortened
from reasoner.models.weight_files import read_shapes, weight_files

SHARD_BYTES = 2**30
"""size of a file, or of the one tensor in it: as much memory is needed beside the tensors while it is written"""
_STEM = "model"
"""of the files of published weights"""
ADAPTED = ".lora_"
"""in the names of an adapter's weights, after the name of the layer that they are beside"""
_PEFT, _PEFT_CONFIG = "base_model.model.", "adapter_config.json"
"""before the names of a published adapter's weights; the file that says how it is added"""


@dataclass
class Digest:
    """The checksum of tensors, in whatever order they are added."""

    _each: dict[str, str] = field(default_factory=dict)
    """name -> hexadecimal checksum"""
    _config: str = ""
    """of the file that says how they are added to a model"""

    def add_config(self, config: bytes) -> None:
        """Add the file that says how an adapter is added: it is no tensor."""
        self._config = f"{_PEFT_CONFIG} {xxhash.xxh3_128_hexdigest(config)}\n"

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor, which must be on the CPU and contiguous."""
        digest = xxhash.xxh3_128(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        self._each[name] = digest.hexdigest()

    def passing(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The tensors, in host memory, each after it was added."""
        for name, tensor in tensors:
            host = tensor.detach().to("cpu").contiguous()
            self.add(name, host)
            yield name, host

    @property
    def tensors(self) -> int:
        """How many were added."""
        return len(self._each)

    @property
    def checksum(self) -> str:
        """128 bits, hexadecimal, of what was added so far."""
        lines = "".join(f"{name} {checksum}\n" for name, checksum in sorted(self._each.items()))
        return xxhash.xxh3_128((lines + self._config).encode()).hexdigest()


def check_room(folder: Path, size: int) -> None:
    """See whether `size` bytes fit into `folder`.

    Raises:
        OSError: ENOSPC: they do not.
    """
    free = shutil.disk_usage(folder).free
    if size >= free:
        raise OSError(
            errno.ENOSPC, f"weights of {size / 2**30:.2f} GiB do not fit into {free / 2**30:.2f} GiB", str(folder)
        )


def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Write the tensors into `folder`, a few at a time, and return their checksum.

    Raises:
        OSError: the disk is full; what is in `folder` then are not all of the weights.
    """
    digest = Digest()
    write_shards(folder, _STEM, digest.passing(tensors))
    return digest.checksum


def merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale B A, computed in float32 at least, and not rounded to W's number format.

    >>> merge(torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]), 0.5)
    tensor([[1.5000, 1.0000],
            [0.0000, 1.0000]])

    Args:
        weight: W, (out, in).
        down: A, (rank, in).
        up: B, (out, rank).
        scale: alpha / rank.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (up.to(wide) @ down.to(wide)).mul_(scale).add_(weight)  # in place: a weight can be a large part of a GPU


def write_adapter(folder: Path, weights: Iterable[tuple[str, Tensor]], config: LoraConfig) -> str:
    """Write the adapter as peft does, which is what vLLM reads; returns its checksum.

    Args:
        weights: of `adapter.only_adapter`, one after the other, under their `adapter.adapter_names`.

    Raises:
        OSError: the disk is full.
    """
    digest = Digest()
    targets: list[str] = []

    def renamed() -> Iterator[tuple[str, Tensor]]:
        for name, value in weights:
            targets.append(name.partition(ADAPTED)[0])
            yield f"{_PEFT}{name.replace('.default.', '.')}", value

    with io_errors():
        save_file(dict(digest.passing(renamed())), folder / "adapter_model.safetensors")
    facts = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": sorted(set(targets)),
    }
    (folder / _PEFT_CONFIG).write_bytes(encoded := json.dumps(facts).encode())
    digest.add_config(encoded)
    return digest.checksum


@dataclass(frozen=True)
class PublishedAdapter:
    """An adapter that can be added to a model."""

    parts: dict[str, Tensor]
    """A and B, by the name of the layer and `.lora_A.weight` or `.lora_B.weight`"""
    weights: frozenset[str]
    """names of the model's weights that they are added to"""
    scale: float
    """alpha / rank"""
    digest: Digest
    """of what was read"""

    @classmethod
    def read(cls, folder: Path, model: Path) -> PublishedAdapter:
        """What `write_adapter` wrote into `folder`, all of it, compared with the model in a folder.

        Raises:
            DataError: it cannot be added to that model.
            FileNotFoundError: there is none.
        """
        digest = Digest()
        parts = {name.removeprefix(_PEFT): value for name, value in read_weights(folder, digest)}
        facts = read_model_json(folder / _PEFT_CONFIG)
        rank: Any = facts.get("r")
        alpha: Any = facts.get("lora_alpha")
        is_rank = isinstance(rank, int) and not isinstance(rank, bool) and rank > 0
        is_alpha = isinstance(alpha, int | float) and not isinstance(alpha, bool) and math.isfinite(alpha)
        if not is_rank or not is_alpha:
            raise DataError(
                f"{folder / _PEFT_CONFIG}: r must be a whole number from 1 and lora_alpha a number, got "
                f"{shortened(rank)} and {shortened(alpha)}."
            )
        layers = {name.partition(ADAPTED)[0] for name in parts}
        shapes = read_shapes(model)
        if missing := sorted(layer for layer in layers if f"{layer}.weight" not in shapes):
            raise DataError(
                f"{model} has no weights of {len(missing)} layers that the adapter is beside ({missing[0]}, ...)"
            )
        for layer in sorted(layers):
            out, inner = (shapes[f"{layer}.weight"] + [0, 0])[:2]
            for part, shape in (("A", [rank, inner]), ("B", [out, rank])):
                name = f"{layer}{ADAPTED}{part}.weight"
                if name not in parts or list(parts[name].shape) != shape or len(shapes[f"{layer}.weight"]) != 2:
                    shown = list(parts[name].shape) if name in parts else "missing"
                    raise DataError(f"{folder}: {name} is {shown}, and {shape} belongs to the model in {model}")
        if strange := sorted(parts.keys() - {f"{layer}{ADAPTED}{part}.weight" for layer in layers for part in "AB"}):
            raise DataError(f"{folder}: {shortened(strange[0])} is no weight of an adapter")
        return cls(parts, frozenset(f"{layer}.weight" for layer in layers), alpha / rank, digest)


def merged_weights(
    model: Path, adapter: PublishedAdapter, dtype: torch.dtype, device: str, read: Digest
) -> Iterator[tuple[str, Tensor]]:
    """The weights of the model in a folder with an adapter added to them: bit for bit what a learner publishes merged
    that holds the numbers of the folder as they are there (the torch engine does; DeepSpeed rounds those that are
    float32 to bfloat16) and adds on the same kind of device.

    Args:
        model: folder of the model; its other weights come as they are there.
        dtype: number format in which the weights with an adapter come.
        device: where it is added.
        read: what was read of the model is added to it.
    """
    for name, weight in read.passing(read_tensors(model, read_shapes(model))):
        if name not in adapter.weights:
            yield name, weight
            continue
        layer = name.removesuffix(".weight")
        down, up = (adapter.parts[f"{layer}{ADAPTED}{part}.weight"].to(device) for part in "AB")
        yield name, merge(weight.to(device), down, up, adapter.scale).to(dtype)


def checksum_of_model(folder: Path) -> str:
    """The checksum of the weights of the model in a folder, all of which are read."""
    digest = Digest()
    for name, value in read_tensors(folder, read_shapes(folder)):
        digest.add(name, value)
    return digest.checksum


def read_weights(folder: Path, digest: Digest) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of `folder`, one after the other, each after it was added to `digest`; of an adapter the file that
    says how it is added is added too.

    Raises:
        FileNotFoundError: there is none.
    """
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / "*.safetensors"))
    if (config := folder / _PEFT_CONFIG).is_file():
        digest.add_config(config.read_bytes())
    return digest.passing(read_files(folder))


def count_weights(folder: Path) -> int:
    """How many tensors the files in `folder` name."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            count += len(file.keys())
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


def read_tensors(folder: Path, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model in `folder` by these names, on the CPU, as they are there.

    Raises:
        DataError: see `weight_files`.
    """
    for path in weight_files(folder) if names else []:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name in names:
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
    storages: set[int] = set()
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard.clear()  # the writer still holds it
            storages.clear()
            size = 0
        host = tensor.detach().to("cpu").contiguous()
        storage = host.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory (a tied output layer), and who reads them may hold copies
        shard[name] = host.clone() if storage in storages else host
        storages.add(storage)
        size += host.nbytes
    yield shard
