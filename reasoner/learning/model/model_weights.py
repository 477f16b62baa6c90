"""The weights of a model in memory, as they are published to samplers, saved for users and kept in checkpoints.

A weight of the plain model can consist of several parts in memory: a layer with an adapter is merged on the way out.
DeepSpeed holds parts in shards, so every method that reads all weights takes a `fetch` that gathers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reasoner.config import LoraConfig
from reasoner.learning.adapter import adapter_names, only_adapter, read_adapter, save_adapter, sources
from reasoner.learning.model.quantization import is_quantized
from reasoner.models.checkpoint_names import CheckpointNames
from reasoner.models.files import ModelFiles, write_model
from reasoner.models.tensor_files import check_room, merge, read_files, read_tensors, write_adapter, write_weights

Dtype = Literal["float32", "bfloat16", "float64"]
Fetch = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...] | None]


class ModelWeights:
    """Reads the weights of a model in memory and writes them to folders."""

    def __init__(
        self,
        model: nn.Module,
        names: CheckpointNames,
        files: ModelFiles,
        dtype: Dtype,
        lora: LoraConfig | None,
        folder: Path,
    ) -> None:
        """Measure what will be published, before DeepSpeed shards the parameters.

        Args:
            model: the model, with its adapter where it has one.
            names: how the names in memory map to those in the folder that the model came from.
            files: the other files of that folder.
            dtype: number format in which the weights are published.
            lora: the adapter; None: the model has none.
            folder: that the model came from; weights that are quantised in memory are read from it again.
        """
        self._model = model
        self._folder = folder
        self._names = names
        self._files = files
        self._lora = lora
        self._published_dtype: torch.dtype = getattr(torch, dtype)
        self._trained_dtype = torch.float64 if dtype == "float64" else torch.float32
        self._adapter_alone = lora is not None and (lora.handover == "adapter" or lora.quantization is not None)
        """Whether samplers get the adapter and nothing else."""
        alone = sum(value.nbytes for value in self.checkpointed().values())
        self._published_bytes = alone if self._adapter_alone else sum(names.sizes) * self._published_dtype.itemsize

    def tensors(self, fetch: Fetch | None = None, *, exact: bool = False) -> Iterator[tuple[str, Tensor]]:
        """All weights of the plain model under the names that they have in its folder, a few at a time.

        Args:
            fetch: gathers the parts of a weight; returns None on a rank that does not need them. Every rank calls it
                for every part in the same order, and one that gets None yields nothing. None: the parts are complete.
            exact: in the number format in which they are trained, not the one in which they are published.
        """
        named, dtype = sources(self._model.state_dict(keep_vars=True)), self._dtype(exact)
        for writer in self._names.writers:
            parts = [self._complete(name, named[name], fetch) for name in writer.sources]
            weights = [
                self._merged(part, dtype if isinstance(named[name][0], nn.Parameter) else named[name][0].dtype)
                for name, part in zip(writer.sources, parts, strict=True)
                if part is not None
            ]
            if weights:
                yield from writer(weights).items()

    def _complete(self, name: str, parts: tuple[Tensor, ...], fetch: Fetch | None) -> tuple[Tensor, ...] | None:
        """The parts of a weight, as `fetch` gathers them; of one that is quantised in memory, with the original W."""
        if not is_quantized(parts[0]):
            return fetch(parts) if fetch else parts
        adapter = fetch(parts[1:]) if fetch else parts[1:]
        return None if adapter is None else (self._original(name), *adapter)

    def _original(self, name: str) -> Tensor:
        """A weight by its name in memory, from the folder that the model came from."""
        reader = next(reader for reader in self._names.readers if name in reader.results)
        tensors = dict(read_tensors(self._folder, reader.sources))
        return reader([tensors[source] for source in reader.sources])[name]

    def published(self, fetch: Fetch | None = None) -> Iterator[tuple[str, Tensor]]:
        """The weights that samplers load: those of the plain model, or of the adapter alone, which is not rounded: who
        gets it may add it to the model as `tensors` does.

        Args:
            fetch: as in `tensors`.
        """
        if not self._adapter_alone:
            yield from self.tensors(fetch)
            return
        names = adapter_names(self.checkpointed(), self._names.renamed)
        for name, value in self.checkpointed().items():
            parts = fetch((value,)) if fetch else (value,)
            if parts is not None:
                yield names[name], parts[0].detach()

    def publish(self, folder: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> str:
        """Write what a sampler loads, a few weights at a time; returns its checksum.

        Args:
            folder: created or overwritten.
            weights: the result of `published`; None: read from the model.

        Raises:
            OSError: the disk is full; ENOSPC before anything is written where that can be seen.
        """
        check_room(folder, self._published_bytes)
        weights = self.published() if weights is None else weights
        if self._adapter_alone:
            assert self._lora is not None
            return write_adapter(folder, weights, self._lora)
        return write_weights(folder, weights)

    def checkpointed(self) -> dict[str, Tensor]:
        """The weights that a checkpoint holds, by their names in memory: all of them, or with an adapter its own alone,
        because no other weight is trained."""
        state = self._model.state_dict(keep_vars=True)
        return state if self._lora is None else only_adapter(state)

    def read_checkpoint(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """The weights that `write_checkpoint` wrote, by their names in memory, a few at a time; tied ones come once."""
        if self._lora is not None:
            return read_adapter(folder)
        return self._names.loaded(read_files(folder))

    def write_checkpoint(self, folder: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Write the trained weights exactly: the model as `save` does, or the adapter alone.

        Args:
            folder: created.
            weights: the result of `tensors`, or with an adapter those of `checkpointed`, in the number format in which
                they are trained; None: read from the model.
        """
        if self._lora is None:
            self.save(folder, weights, exact=True)
        else:
            folder.mkdir()
            save_adapter(folder, self.checkpointed().items() if weights is None else weights)

    def save(self, folder: Path, weights: Iterable[tuple[str, Tensor]] | None = None, *, exact: bool = False) -> None:
        """Write a folder like the one that the model came from, with the current weights.

        Args:
            folder: created where it does not exist.
            weights: the result of `tensors`; None: read from the model.
            exact: in the number format in which they are trained, not the one in which they are published.

        Raises:
            OSError: the disk is full.
            RunError: the tensors that were written are not those of the folder that the model came from.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._files.write(folder, str(self._dtype(exact)).removeprefix("torch."))
        weights = self.tensors(exact=exact) if weights is None else weights
        write_model(folder, chain(weights, self._files.tensors(self._names.kept)), self._names.saved)

    def _dtype(self, exact: bool) -> torch.dtype:
        return self._trained_dtype if exact else self._published_dtype

    def _merged(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """A weight of the plain model from its parts (`adapter.sources`), with the adapter added to it."""
        weight, *adapter = (part.detach() for part in parts)
        if adapter:
            assert self._lora is not None
            scale = self._lora.alpha / self._lora.rank
            weight = merge(weight.to(adapter[0].device), adapter[0], adapter[1], scale)
        return weight.to(dtype)
