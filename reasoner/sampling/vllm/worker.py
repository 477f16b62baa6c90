"""Methods that vLLM adds to its workers (`worker_extension_cls`): they run where weights and random numbers are."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from multiprocessing.connection import Client
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import vllm
from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.lora.request import LoRARequest
from vllm.lora.utils import replace_submodule
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.platforms import current_platform

from reasoner.errors import SamplerError
from reasoner.models.tensor_files import Digest, PublishedAdapter, checksum_of_model, merged_weights, read_weights
from reasoner.sampling.vllm.buckets import DeviceDigest, SharedBuffer, device_sum, open_cuda, received_weights
from reasoner.sampling.vllm.messages import MERGED_ADVICE, SHAPE


class WorkerExtension:
    """Mixed into vLLM's worker class; the names must not be the worker's own."""

    reload_weights: Any
    vllm_config: Any
    add_lora: Any
    remove_lora: Any
    list_loras: Any
    model_runner: Any
    get_model: Any
    _resident: Mapping[str, tuple[str, list[int]]] = MappingProxyType({})
    """way of loading -> checksum of what was loaded last by it, and of each of vLLM's own tensors then"""
    _broke_off: bool = False
    """whether a load did"""
    _mapped: tuple[SharedBuffer, torch.Tensor] | None = None
    _base: str | None = None
    """checksum of the weights in the model's folder, once it was asked for"""

    def seed_sampling(self, seed: int) -> None:
        """Seed what all requests without a seed of their own draw from: on a CPU that is torch's generator; on CUDA
        numpy's gives each of them a seed."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def take_weights(self, folder: str) -> tuple[str, int]:
        """Load every tensor of `folder`; returns checksum and number of what was read."""
        digest = Digest()
        self._reload(read_weights(Path(folder), digest))
        self._check_resident("files", digest.checksum)
        return digest.checksum, digest.tensors

    def merge_adapter(self, folder: str, base: str) -> tuple[str, int]:
        """Load the weights of the model that this engine was started with, from its folder, with the adapter in
        `folder` added to them; returns checksum and number of the adapter's tensors.

        The sum is made anew each time: nothing is left of what was loaded before, be it another version, another run's
        adapter or weights of another model, and nothing adds up.

        Args:
            base: checksum of the weights that the adapter was trained beside.

        Raises:
            SamplerError: the engine was started with others.
            DataError: the adapter cannot be added to that model.
        """
        model = self.vllm_config.model_config
        self._refuse_broken()
        if self._checksum_of_base() != base:
            raise SamplerError(f"{model.model} holds other weights than the adapter was trained beside")
        adapter = PublishedAdapter.read(Path(folder), Path(model.model))
        read, added = Digest(), DeviceDigest()
        weights = merged_weights(Path(model.model), adapter, model.dtype, current_platform.device_type, read)
        try:
            self._reload(_summed(weights, adapter.weights, added))
            if read.checksum != base:
                raise SamplerError(f"the weights in {model.model} have changed since this engine read them: restart it")
            self._check_resident("adapter", added.checksum)
        finally:
            torch.cuda.empty_cache()  # the sums were made beside what vLLM may take of the GPU
        return adapter.digest.checksum, adapter.digest.tensors

    def take_buckets(self, address: str, is_trial: bool) -> tuple[str, int]:
        """Load the weights that the learner sends over the socket at `address` and puts into a buffer on this worker's
        GPU; returns checksum and number of the copies that were made of them.

        Args:
            is_trial: they are not loaded.
        """
        digest = DeviceDigest()
        with Client(address, "AF_UNIX") as channel:
            weights = received_weights(channel, self._map_buffer, digest)
            if is_trial:
                deque(weights, maxlen=0)
            else:
                self._reload(weights)
        checksum = digest.checksum
        if not is_trial:
            self._check_resident("buckets", checksum)
        torch.cuda.empty_cache()  # the copies were made beside what vLLM may take of the GPU
        return checksum, digest.tensors

    def _map_buffer(self, shared: SharedBuffer) -> torch.Tensor:
        """Mapped once and kept: the learner counts who has its buffer, and every mapping counts once."""
        if self._mapped is None or self._mapped[0] != shared:
            self._mapped = (shared, open_cuda(shared))
        return self._mapped[1]

    def _reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Load weights.

        vLLM prepares every layer for what comes, and again only those that have got all of theirs: where a load breaks
        off, whatever is loaded later may silently be a mixture. So nothing is, until the engine is started again.

        Raises:
            SamplerError: an earlier load broke off, or vLLM did not take all.
        """
        self._refuse_broken()
        self._broke_off = True
        packed = self._unpack_experts() if current_platform.is_cpu() else {}
        self.reload_weights(weights_iterator=weights)
        _pack_tied_again(self.get_model())
        if lost := [name for name, method in packed.items() if method.moe_kernel is None]:
            raise SamplerError(
                f"vLLM did not take the experts of {len(lost)} layers ({lost[0]}, ...) from what it was given: it does "
                "not know them by the names under which they were published. Set sampling.engine = 'hf'"
            )
        self._broke_off = False

    def _refuse_broken(self) -> None:
        if self._broke_off:
            raise SamplerError("a load of weights broke off in this engine, and what it holds is a mixture: restart it")

    def _check_resident(self, way: str, loaded: str) -> None:
        """A second witness, beside the checksum of what was read: vLLM's own tensors, which its kernels read, change
        with what is loaded and only with it.

        Args:
            way: in which it came; in another one the same numbers may come in another number format.
            loaded: checksum of it, as vLLM was given it. Not that of an adapter: two can have the same sum.

        Raises:
            SamplerError: they did not.
        """
        sums = [device_sum(value) for value in self.get_model().parameters()] if not current_platform.is_cpu() else []
        if not sums:  # on a CPU vLLM keeps packed copies that are nobody's parameters
            return
        now = (loaded, torch.stack(sums).tolist())
        before = self._resident.get(way)
        if before and (before[0] == now[0]) != (before[1] == now[1]):
            what = "other tensors than before, of the same weights" if before[0] == loaded else "what it held before"
            raise SamplerError(
                f"vLLM was given weights and holds {what}: its load does not do what it says. Set sampling.engine = "
                "'hf', or take another version of vLLM"
            )
        self._resident = {**self._resident, way: now}

    def _unpack_experts(self) -> dict[str, Any]:
        """For the CPU vLLM packs experts when it makes their kernel, and a reload keeps that kernel: what it loads
        would be read as if it were packed. Without the old kernel, a new one is made.

        Returns:
            what makes the kernel of each layer with experts.
        """
        parts = self.model_runner.model.named_modules()
        methods: dict[str, Any] = {name: getattr(part, "quant_method", None) for name, part in parts}
        packed = {name: method for name, method in methods.items() if getattr(method, "moe_kernel", None) is not None}
        for method in packed.values():
            method.moe_kernel = None
        return packed

    def describe(self, folder: str, with_base: bool = False) -> dict[str, Any]:
        """What this engine is, for a run that wants to sample with it.

        Args:
            folder: one that it is asked whether it can read.
            with_base: say the checksum of the weights in the folder of its model too, which reads them once.

        Raises:
            SamplerError: it cannot be used any more.
        """
        self._refuse_broken()
        if with_base:
            self._checksum_of_base()
        model = self.vllm_config.model_config
        return {
            "vllm": vllm.__version__,
            "device": current_platform.device_type,
            "shape": {name: getattr(model.hf_text_config, name, None) for name in SHAPE},
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": model.max_model_len,
            "max_sequences": self.vllm_config.scheduler_config.max_num_seqs,
            "logprobs_mode": str(model.logprobs_mode),
            "generation_config": model.generation_config,
            "reads_folder": os.access(folder, os.R_OK),
            "base": self._base or "",
        }

    def _checksum_of_base(self) -> str:
        """Of the weights in the folder of its model, which are read once."""
        if self._base is None:
            self._base = checksum_of_model(Path(self.vllm_config.model_config.model))
        return self._base

    def unwrap_output_layer(self) -> None:
        """Take away what vLLM puts around the output layer for an adapter there, which ours never has: it costs
        `max_lora_rank` numbers for each token of the vocabulary, and vLLM's CPU build ends with an error where it
        computes logits of a prompt with it, being prepared for those of the sampled positions alone."""
        model, modules = self.get_model(), self.model_runner.lora_manager._adapter_manager.modules
        wrapped = [pair for pair in model.named_modules() if isinstance(pair[1], LogitsProcessorWithLoRA)]
        for name, wrapper in wrapped:
            replace_submodule(model, name, wrapper.base_layer)
        for name in [name for name, module in modules.items() if isinstance(module, LogitsProcessorWithLoRA)]:
            del modules[name]  # an adapter beside it is refused by `take_adapter`, not left out

    def take_adapter(self, number: int, folder: str) -> tuple[str, int]:
        """Load the adapter in `folder` under a new number, in place of the one before; returns as `take_weights`.

        Raises:
            SamplerError: vLLM's model has no such layers, and would have left them out without a word.
        """
        digest = Digest()
        deque(read_weights(Path(folder), digest), maxlen=0)
        for before in self.list_loras():
            self.remove_lora(before)
        self.add_lora(LoRARequest(str(number), number, folder))
        manager = self.model_runner.lora_manager._adapter_manager
        lost = sorted(manager.get_adapter(number).loras.keys() - manager.modules.keys())
        if lost:
            raise SamplerError(
                f"vLLM has no layers for {len(lost)} parts of the adapter ({lost[0]}, ...): {MERGED_ADVICE}"
            )
        return digest.checksum, digest.tensors


def _summed(
    weights: Iterator[tuple[str, torch.Tensor]], names: Collection[str], digest: DeviceDigest
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights; those by these names after they were added to `digest`."""
    for name, value in weights:
        if name in names and not current_platform.is_cpu():  # on a CPU nobody asks for it
            digest.add(name, value)
        yield name, value


def _pack_tied_again(model: torch.nn.Module) -> None:
    """Refresh what vLLM's CPU build packed of output layers that are the embedding: its reload refreshes a layer by the
    weights of its own that it gets, and these get none."""
    layers = [layer for layer in model.modules() if isinstance(layer, VocabParallelEmbedding)]
    for layer in layers:
        tied = any(other is not layer and getattr(other, "weight", None) is layer.weight for other in layers)
        if tied and isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)
