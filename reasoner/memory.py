"""What a run will take of memory, estimated before anything is loaded, and what there is.

    learner     parameters, gradient, AdamW's two moments: 16 bytes per parameter (float32); with DeepSpeed
                what docs/scaling.md says. With an adapter (`[lora]`): that for its parameters, and the others as a
                reference, or their share of ZeRO 3
    reference   4 bytes per parameter; with DeepSpeed as wide as `model.dtype`; none with an adapter
    critic      as a learner
    sampler     its own weights in `model.dtype`; its KV cache
    activations (9 hidden + 3 intermediate) values per token and layer of a micro-batch (2205.05198, for attention that
                keeps no scores; with recomputation `hidden` and one whole layer), and three times the logits of a chunk
    processes   Python with torch, in the run and in vLLM

The first four are certain, the others estimates. A run is refused where what is certain does not fit. Every rank has a
GPU of its own, and all ranks of a node its memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import psutil

from reasoner.config import Config, LoraConfig
from reasoner.errors import UserError

GIB = 2**30
PROCESS = 0.6 * GIB
"""bytes of a process that has imported torch and transformers"""
VLLM = 1.2 * GIB
"""bytes of vLLM's process beside weights and cache"""
TIGHT = 0.9
"""share of the memory above which a run that should fit is warned of"""
ADVICE = {
    "memory": "Take a smaller model, a smaller sampling.kv_cache_gib or learning.token_budget, "
    "learning.gradient_checkpointing = true, or end other programs (docs/troubleshooting.md).",
    "GPU memory": "Take a smaller model, another sampling.memory_share, a smaller learning.token_budget, "
    "learning.gradient_checkpointing = true, or DeepSpeed with offload (docs/scaling.md).",
}
WIDTH = {"float32": 4, "bfloat16": 2}
"""bytes of a number"""
_GROUP_FILES = {
    "": (("", "memory.max", "memory.current", "inactive_file"),),
    "memory": (("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),),
}
"""controller in /proc/self/cgroup (version 2 names none) -> folder, files of limit and use, key of the cache"""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What of a model decides how much memory it takes; 0 where it does not say."""

    parameters: int
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    adapter: int = 0
    """parameters of an adapter beside it; 0: all its own are trained"""

    @property
    def trained(self) -> int:
        """The parameters that an optimiser changes."""
        return self.adapter or self.parameters

    @classmethod
    def of(cls, folder: Path, lora: LoraConfig | None = None) -> ModelSize:
        """Read from the headers of its weights, and from its configuration.

        Args:
            lora: the adapter that is trained; None: without.
        """
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings |= settings.get("text_config") or {}
        parameters = adapter = 0
        for file in folder.glob("*.safetensors"):
            with file.open("rb") as weights:
                header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
            shapes = {name: header[name]["shape"] for name in header if name != "__metadata__"}
            parameters += sum(map(prod, shapes.values()))
            adapter += _adapter(shapes, lora, settings.get("vocab_size")) if lora else 0
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
        known = [value if isinstance(value := settings.get(name), int) else 0 for name in names]
        layers, hidden, intermediate, vocabulary = known
        return cls(parameters, layers, hidden, intermediate, vocabulary, adapter)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that must be there at the same time, by what takes them."""

    where: Literal["memory", "GPU memory"]
    when: str
    certain: Mapping[str, float]
    likely: Mapping[str, float] = field(default_factory=dict)
    """beside that"""

    @property
    def least(self) -> float:
        """What is certain."""
        return sum(self.certain.values())

    @property
    def total(self) -> float:
        """With what is likely."""
        return self.least + sum(self.likely.values())

    def times(self, ranks: int) -> Need:
        """What so many ranks need."""
        certain, likely = ({name: ranks * size for name, size in each.items()} for each in (self.certain, self.likely))
        return replace(self, certain=certain, likely=likely)

    @property
    def parts(self) -> str:
        """`learner 2.0, sampler 0.5 GiB`."""
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in {**self.certain, **self.likely}.items()) + " GiB"


def needs(
    config: Config,
    model: ModelSize,
    critic: ModelSize,
    device: str,
    engine: str,
    gpu_bytes: float = 0.0,
    *,
    training: bool = True,
) -> Iterator[Need]:
    """What a run needs at the moments at which it needs most.

    Args:
        model: the policy.
        critic: the value model, where the method has one.
        device: `cpu` or `cuda`.
        engine: `vllm`, `hf`, or empty where nothing is sampled.
        gpu_bytes: of the GPU in all.
        training: False for an evaluation.
    """
    here = _ranks_here(config, device)
    parameters = model.parameters
    held, gradients, offloaded = _trained(config, model, critic) if training else ({}, {}, {})
    activations = {"activations": activation_bytes(config, model)} if training else {}
    processes = {"processes": PROCESS + (VLLM if engine == "vllm" else 0.0)}
    sampler = {"sampler": float(parameters * WIDTH[config.model.dtype])} if engine else {}
    if device == "cpu":
        cache = {"KV cache": config.sampling.kv_cache_gib * GIB} if engine == "vllm" else {}
        certain = {**held, **gradients, **offloaded, **sampler, **cache}
        yield Need("memory", "in the update", certain, activations | processes).times(here)
        return
    vllm = {"vLLM, sampling.memory_share": config.sampling.memory_share * gpu_bytes}
    yield Need("GPU memory", "while sampling", {**held, **(vllm if engine == "vllm" else sampler)})
    yield Need("GPU memory", "in the update", {**held, **gradients}, activations)
    yield Need("memory", "in the update", {**offloaded, **sampler}, processes).times(here)


def activation_bytes(config: Config, model: ModelSize) -> float:
    """Of the largest micro-batch and the logits of a chunk."""
    width, tokens = WIDTH[config.model.dtype], config.learning.token_budget
    of_a_layer = 9 * model.hidden + 3 * model.intermediate
    values = model.layers * of_a_layer
    if config.learning.gradient_checkpointing:
        values = model.layers * model.hidden + of_a_layer
    return float(width * tokens * values + 3 * 4 * config.learning.logit_chunk * model.vocabulary)


def check_memory(found: Iterable[Need], free: Mapping[str, float]) -> tuple[str, ...]:
    """Warnings of what will be tight.

    Args:
        free: bytes that are free now, by `Need.where`.

    Raises:
        UserError: what is certain to be needed is not there.
    """
    warnings = []
    for need in found:
        there = free[need.where]
        if need.least > there:
            raise UserError(
                f"this run cannot work here: {need.when} it needs at least {need.least / GIB:.1f} GiB of {need.where} "
                f"({need.parts}), and {there / GIB:.1f} GiB are free. {ADVICE[need.where]}"
            )
        if need.total > TIGHT * there:
            warnings.append(
                f"{need.where} will be tight {need.when}: about {need.total / GIB:.1f} GiB ({need.parts}), "
                f"{there / GIB:.1f} GiB are free. {ADVICE[need.where]}"
            )
    return tuple(warnings)


def describe_memory(found: Iterable[Need], free: Mapping[str, float]) -> str:
    """The numbers in one line."""
    parts = [
        f"about {n.total / GIB:.1f} of {free[n.where] / GIB:.1f} GiB {n.where} {n.when} ({n.parts})" for n in found
    ]
    return "; ".join(parts)


def free_memory(device: str) -> dict[str, float]:
    """Bytes that are free now, by `Need.where`: of the machine or of this container, whichever is less."""
    there = psutil.virtual_memory().available + psutil.swap_memory().free
    own = Path("/proc/self/cgroup")
    container = _container_free(Path("/sys/fs/cgroup"), own.read_text()) if own.exists() else ()
    free = {"memory": float(min([there, *container]))}
    if device == "cuda":
        import torch

        free["GPU memory"] = float(torch.cuda.mem_get_info()[0])
    return free


def gpu_memory(device: str) -> float:
    """Bytes of the GPU in all; 0 without one."""
    if device != "cuda":
        return 0.0
    import torch

    return float(torch.cuda.mem_get_info()[1])


def _container_free(root: Path, groups: str) -> Iterator[float]:
    """What the control groups of this process leave it; a file cache that can be dropped counts as free.

    Args:
        root: where they are mounted.
        groups: `/proc/self/cgroup`.
    """
    for line in groups.splitlines():
        _, controller, path = line.split(":", 2)
        for folder, limit, used, cache in _GROUP_FILES.get(controller, ()):
            top = root / folder
            for group in (top / path.lstrip("/"), *(top / path.lstrip("/")).parents):
                if group.is_relative_to(top) and (group / limit).exists():
                    stat = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                    allowed = (group / limit).read_text().strip()
                    if allowed != "max":
                        yield int(allowed) - int((group / used).read_text()) + int(stat.get(cache, 0))


def _trained(
    config: Config, model: ModelSize, critic: ModelSize
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """What learner, reference and critic hold all the time, their gradients, and what is in host memory instead."""
    size = model.trained
    held, gradients, offloaded = {"learner": 12.0 * size}, {"gradient": 4.0 * size}, {}
    if config.learner == "deepspeed":
        learner, gradient, moved = _deepspeed_bytes(config)
        held, gradients = {"learner": learner * size}, {"gradient": gradient * size}
        offloaded = {"learner, offloaded": moved * size} if moved else {}
    width = 4.0 if config.learner == "torch" else WIDTH[config.model.dtype]
    if config.lora is not None:
        sharded = config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3
        held["frozen weights"] = width * model.parameters / (config.run.ranks if sharded else 1)
    elif config.gro.needs_reference:
        held["reference"] = width * size
    if config.gro.needs_critic:
        held["critic"] = 12.0 * critic.parameters
        gradients["its gradient"] = 4.0 * critic.parameters
    return held, gradients, offloaded


def _deepspeed_bytes(config: Config) -> tuple[float, float, float]:
    """Bytes per parameter on each rank: parameters and optimiser, gradient, and what of them is in host memory."""
    settings, ranks = config.learning.deepspeed, config.run.ranks
    stage = settings.zero_stage
    parameters = WIDTH[config.model.dtype] / (ranks if stage == 3 else 1)
    gradient = 4.0 / (ranks if stage >= 2 else 1)
    optimiser = 12.0 / ranks if stage else 8.0  # ZeRO keeps a copy of the parameters of its own
    moved = optimiser * settings.offload_optimizer + parameters * settings.offload_parameters
    return parameters + optimiser - moved, gradient, moved


def _adapter(shapes: Mapping[str, list[int]], lora: LoraConfig, vocabulary: int | None) -> int:
    """Parameters of an adapter beside the matrices of `lora.targets`; `all-linear`: all but the vocabulary's."""
    return sum(
        lora.rank * sum(shape)
        for name, shape in shapes.items()
        if len(shape) == 2
        and (
            shape[0] != vocabulary
            if lora.targets == ["all-linear"]
            else name.endswith(tuple(f".{target}.weight" for target in lora.targets))
        )
    )


def _ranks_here(config: Config, device: str) -> int:
    """Ranks of this node."""
    if device == "cpu":
        return config.run.ranks
    import torch

    return min(config.run.ranks, max(1, torch.cuda.device_count()))
