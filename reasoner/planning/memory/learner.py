"""What training holds: weights, gradients, the optimiser, and the models that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner.config import Config
from reasoner.learning.deepspeed.settings import deepspeed_settings
from reasoner.models.size import WIDTH, ModelSize
from reasoner.planning.memory.quantized import NF4, dequantized_bytes, linear_numbers, quantized_bytes

BUCKET = 5e8
"""elements of DeepSpeed's buffer for gradients that are being reduced, unless its file says another number"""
GATHERED = 1e9
"""parameters that ZeRO 3 keeps whole at once"""
Parts = dict[str, float]


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """What training takes of one rank."""

    held: Parts
    """all the time"""
    gradients: Parts
    offloaded: Parts
    """in host memory instead"""
    buffers: Parts
    """while gradients are computed"""


def learner_bytes(
    config: Config, model: ModelSize, critic: ModelSize, teacher: ModelSize | None, device: str
) -> LearnerMemory:
    """What learner, reference, teacher and critic take of one rank."""
    size = model.trained
    held: Parts = {"weights": 4.0 * size, "optimiser": moment_bytes(config) * size}
    gradients: Parts = {"gradient": 4.0 * size}
    offloaded: Parts = {}
    buffers: Parts = {}
    if config.learner == "deepspeed":
        held, gradients, offloaded = _deepspeed_bytes(config, size)
        buffers = _deepspeed_buffers(config, model, device)
    width = 4.0 if config.learner == "torch" else WIDTH[config.model.dtype]
    if config.lora is not None:
        sharded = config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3
        held["frozen weights"] = width * model.parameters / (config.run.ranks if sharded else 1)
        if config.lora.quantization:
            held["frozen weights"] = quantized_bytes(config, model, NF4)
            buffers["dequantised weights"] = dequantized_bytes(config, model)
    elif config.needs_initial:
        held["reference"] = _frozen_bytes(config, model, config.model.dtype)
    if teacher is not None:
        held["teacher"] = _frozen_bytes(config, teacher, config.teacher.dtype or config.model.dtype)
    if config.gro.needs_critic:
        held["critic"] = (4.0 + moment_bytes(config)) * critic.parameters
        gradients["its gradient"] = 4.0 * critic.parameters
    quantized = config.lora is not None and config.lora.quantization
    if config.model.dtype == "bfloat16" and config.learner == "torch" and not quantized:
        # Autocast casts a layer's weights once, and the backward pass keeps the casts.
        layers = model.parameters - model.embedding * (1 if model.tied else 2)
        at_once = max(1, model.layers) if config.learning.gradient_checkpointing else 1
        buffers["bfloat16 casts"] = 2.0 * layers / at_once
    return LearnerMemory(held, gradients, offloaded, buffers)


def _frozen_bytes(config: Config, model: ModelSize, dtype: str) -> float:
    """Of a model that is not trained. Torch's bfloat16 keeps float32 of what is not a linear layer."""
    if config.learner != "torch":
        return WIDTH[dtype] * model.parameters
    narrow = linear_numbers(model) if dtype == "bfloat16" and model.matrices else 0
    return 4.0 * model.parameters - 2.0 * narrow


def moment_bytes(config: Config) -> float:
    """Of AdamW's two moments of a weight; of 8 bits, each has a float32 scale for 256 weights."""
    return 8.0 if config.learning.optimizer == "adamw" else 2.0 * (1 + 4 / 256)


def _deepspeed_bytes(config: Config, size: int) -> tuple[Parts, Parts, Parts]:
    """On each rank: weights and optimiser, gradient, and what of them is in host memory instead."""
    settings, ranks = config.learning.deepspeed, config.run.ranks
    stage = settings.zero_stage
    weights = size * WIDTH[config.model.dtype] / (ranks if stage == 3 else 1)
    gradient = size * 4.0 / (ranks if stage >= 2 else 1)
    optimiser = size * (12.0 / ranks if stage else 8.0)  # ZeRO keeps a copy of the parameters of its own
    held, offloaded = {}, {}
    if settings.offload_optimizer:  # the gradient as the optimiser reads it, and what it is copied through
        offloaded["gradient, offloaded"] = size * (4.0 + WIDTH[config.model.dtype]) / ranks
    for name, part, away in (
        ("weights", weights, settings.offload_parameters),
        ("optimiser", optimiser, settings.offload_optimizer),
    ):
        if away:
            offloaded[f"{name}, offloaded"] = part
        else:
            held[name] = part
    return held, {"gradient": gradient}, offloaded


def _deepspeed_buffers(config: Config, model: ModelSize, device: str) -> Parts:
    """What ZeRO reduces gradients in (all of it is taken of a GPU, of a CPU what is written to; they are summed in
    float32), and what ZeRO 3 has gathered."""
    stage, width = config.learning.deepspeed.zero_stage, WIDTH[config.model.dtype]
    if stage == 0:
        return {}
    zero = deepspeed_settings(config.learning, config.model.dtype)["zero_optimization"]
    bucket = float(zero.get("reduce_bucket_size", BUCKET))
    numbers = bucket if device == "cuda" else min(bucket, model.trained)
    buffers = {"buckets": (width if width == 4 else width + 4) * numbers}
    if stage == 3:
        gathered = float(zero.get("stage3_max_live_parameters", GATHERED))
        buffers["gathered"] = width * min(gathered, model.parameters)
    return buffers
