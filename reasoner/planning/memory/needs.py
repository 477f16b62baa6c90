"""What must be in memory at the moments at which a run needs most, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from reasoner.config import Config
from reasoner.errors import UserError
from reasoner.models.size import WIDTH, ModelSize
from reasoner.planning.memory.activations import activation_bytes, logit_bytes, offloaded_bytes
from reasoner.planning.memory.learner import LearnerMemory, Parts, learner_bytes
from reasoner.planning.memory.sampler import (
    VLLM,
    cache_bytes,
    hf_cache_bytes,
    published_bytes,
    route_bytes,
    sampler_bytes,
)
from reasoner.processes.machine import GIB, Machine
from reasoner.sampling.factory import merge_reason
from reasoner.sampling.vllm.messages import BUFFER_BYTES

PROCESS = 0.4 * GIB
"""bytes of a process that has imported torch and transformers"""
SCORING = 0.3 * GIB
"""bytes of the processes that score what it samples"""
ASLEEP = 1.5 * GIB
"""bytes of a GPU that vLLM keeps while it sleeps: graphs and workspaces"""
CONTEXT = 0.5 * GIB
"""bytes of a GPU that a process takes by using it"""
TIGHT = 0.9
"""share of the memory above which a run that should fit is warned of"""
SHARD_BYTES = float(GIB)
"""bytes of a file of published weights (`weights.SHARD_BYTES`)"""
Where = Literal["memory", "GPU memory"]
ADVICE = (
    "Take a smaller model, a smaller `sampling.kv_cache_gib` (CPU) or another `sampling.memory_share` (GPU), or end "
    "other programs (docs/scaling.md)."
)
"""what helps a run that does not train"""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that must be there at the same time, by what takes them."""

    where: Where
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
        certain, likely = (
            {name: ranks * size for name, size in sizes.items()} for sizes in (self.certain, self.likely)
        )
        return replace(self, certain=certain, likely=likely)

    def beside(self, certain: Mapping[str, float], likely: Mapping[str, float]) -> Need:
        """With what is there once, however many ranks there are."""
        return replace(self, certain={**self.certain, **certain}, likely={**self.likely, **likely})

    @property
    def parts(self) -> str:
        """`learner 2.0, sampler 0.5 GiB`."""
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in {**self.certain, **self.likely}.items()) + " GiB"


def needs(
    config: Config,
    model: ModelSize,
    critic: ModelSize,
    machine: Machine,
    engine: str,
    *,
    teacher: ModelSize | None = None,
    training: bool = True,
) -> tuple[Need, ...]:
    """What a run needs at the moments at which it needs most.

    Args:
        model: the policy.
        critic: the value model, where the method has one.
        engine: `vllm`, `hf`, or another where no engine of this machine samples.
        teacher: a model that is loaded beside it; None: there is none.
        training: False for an evaluation.
    """
    learner = LearnerMemory({}, {}, {}, {})
    if training:
        learner = learner_bytes(config, model, critic, teacher, machine.device)
    forward = {}
    if training:
        forward = {
            "activations": activation_bytes(config, model, machine.device),
            "logits": logit_bytes(config, model, machine.gpu_bytes),
            **learner.buffers,
        }
    build = _on_cpu if machine.device == "cpu" else _on_gpu
    return tuple(build(config, model, machine, engine, learner, forward))


def _on_cpu(
    config: Config, model: ModelSize, machine: Machine, engine: str, learner: LearnerMemory, forward: Parts
) -> Iterator[Need]:
    """One memory holds everything all the time, and gets back only part of what was freed."""
    ranks = machine.ranks(config.run.ranks)
    sampler, cache = sampler_bytes(config, model, engine, "cpu"), {}
    processes = _process_bytes(config, model, engine, training=bool(forward))
    if engine == "vllm":
        cache = {"KV cache": config.sampling.kv_cache_gib * GIB}
    held = {**learner.held, **learner.offloaded, **sampler, **cache}
    if engine:
        drawn = {"KV cache": hf_cache_bytes(config, model, "cpu")} if engine == "hf" else {}
        yield Need("memory", "while sampling", held, drawn | processes).times(ranks)
    if forward:
        yield Need("memory", "in the update", {**held, **learner.gradients}, forward | processes).times(ranks)
    if forward and engine:
        # Where blocks go back at once (`return_freed_blocks`), nothing is kept.
        exact = config.lora is not None or config.learning.gradient_checkpointing is True
        kept = {} if exact else {"kept": sum(learner.gradients.values()) + forward["activations"]}
        need = Need("memory", "at the hand-over", held, kept | processes).times(ranks)
        copied = config.learner == "deepspeed" or config.lora is not None or config.model.dtype == "bfloat16"
        yield need.beside(*_published(config, model, engine, "cpu", copied=copied))


def _on_gpu(
    config: Config, model: ModelSize, machine: Machine, engine: str, learner: LearnerMemory, forward: Parts
) -> Iterator[Need]:
    """Every rank has a GPU of its own, and all ranks of a node its memory."""
    ranks = machine.ranks(config.run.ranks)
    sampler = sampler_bytes(config, model, engine, "cuda")
    processes = _process_bytes(config, model, engine, training=bool(forward))
    contexts = {"CUDA contexts": CONTEXT * (2 if engine == "vllm" else 1)}
    if engine == "vllm" and forward:
        contexts["hand-over buffer"] = float(BUFFER_BYTES)
    drawing, cache = dict(sampler), {}
    if engine == "vllm":
        drawing |= {"vLLM's own": VLLM["cuda"], "KV cache": cache_bytes(config, model, machine, engine)}
    elif engine == "hf":
        cache = {"KV cache": hf_cache_bytes(config, model, "cuda")}
    if engine:
        yield Need("GPU memory", "while sampling", {**learner.held, **drawing}, cache | contexts)
    if forward:
        awake = drawing if config.sampling.lookahead else {}
        asleep = {} if awake or engine != "vllm" else {"vLLM asleep": ASLEEP}
        parts = forward | asleep | contexts
        yield Need("GPU memory", "in the update", {**learner.held, **learner.gradients, **awake}, parts)
        kept = sampler if _keeps_weights_asleep(config, engine) else {}
        waiting = offloaded_bytes(config, model)
        host = processes | ({"activations, offloaded": waiting} if waiting else {})
        update = Need("memory", "in the update", {**learner.offloaded, **kept}, host).times(ranks)
        yield max(update, _while_loading(config, model, ranks, processes), key=lambda need: need.total)
    else:
        yield Need("memory", "while sampling", {}, processes).times(ranks)
    if forward and engine:
        handing = Need("memory", "at the hand-over", learner.offloaded, processes).times(ranks)
        yield handing.beside(*_published(config, model, engine, "cuda", copied=True))


def _while_loading(config: Config, model: ModelSize, ranks: int, processes: Parts) -> Need:
    """Weights pass through host memory. The ranks of a node take turns, but under ZeRO 3 all of them have to hold the
    whole model until DeepSpeed has spread it."""
    quantized = config.lora is not None and config.lora.quantization
    width = 4.0 if config.learner == "torch" and not quantized else WIDTH[config.model.dtype]
    together = config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3
    loaded = {"model, loaded": width * model.parameters * (ranks if together else 1)}
    return Need("memory", "while loading", {}, processes).times(ranks).beside(loaded, {})


def _process_bytes(config: Config, model: ModelSize, engine: str, *, training: bool) -> Parts:
    """Python and its libraries, in all processes of a rank, and what they hold of the responses."""
    total = PROCESS
    if engine or config.has_sampler:
        total += SCORING
    if engine == "vllm":
        total += VLLM["cpu"]
    routes = route_bytes(config, model) if training else 0.0
    return {"processes": total} | ({"experts to replay": routes} if routes else {})


def _keeps_weights_asleep(config: Config, engine: str) -> bool:
    """Whether a sampler that sleeps has its weights in host memory: transformers' always, vLLM's where what comes next
    is an adapter alone. None sleeps that samples during the update."""
    if config.sampling.lookahead or not engine:
        return False
    return engine == "hf" or (engine == "vllm" and config.lora is not None and not merge_reason(config, engine, "cuda"))


def _published(config: Config, model: ModelSize, engine: str, device: str, *, copied: bool) -> tuple[Parts, Parts]:
    """What samplers load, and the file that is being put together where its numbers are not those that are trained."""
    size = published_bytes(config, model, engine, device)
    return {"published": size}, {"being written": min(SHARD_BYTES, size)} if copied else {}


def check_memory(needs: Iterable[Need], free: Mapping[str, float], advice: str = ADVICE) -> tuple[str, ...]:
    """Warnings of what will be tight.

    Args:
        free: bytes that are free now, by `Need.where`.
        advice: what to do about it.

    Raises:
        UserError: what is certain to be needed is not there.
    """
    warnings = []
    for need in needs:
        available = free.get(need.where, float("inf"))
        if need.least > available:
            raise UserError(
                f"this run cannot work here: {need.when} it needs at least {need.least / GIB:.1f} GiB of {need.where} "
                f"({need.parts}), and {available / GIB:.1f} GiB are free. {advice}"
            )
        if need.total > TIGHT * available:
            warnings.append(
                f"{need.where} will be tight {need.when}: about {need.total / GIB:.1f} GiB ({need.parts}), "
                f"{available / GIB:.1f} GiB are free. {advice}"
            )
    return tuple(warnings)


def describe_memory(needs: Iterable[Need], free: Mapping[str, float]) -> str:
    """The numbers in one line: of the moment at which most of the memory is taken, for each."""
    most = {need.where: need for need in sorted(needs, key=lambda need: need.total)}
    parts = [
        f"about {n.total / GIB:.1f} of {free[n.where] / GIB:.1f} GiB {n.where} {n.when} ({n.parts})"
        for n in most.values()
    ]
    return "; ".join(parts)
