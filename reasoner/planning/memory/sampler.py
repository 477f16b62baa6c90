"""What a sampler holds: weights, its cache, and the file that it loads."""

from __future__ import annotations

from reasoner.config import Config
from reasoner.models.size import WIDTH, ModelSize
from reasoner.planning.memory.learner import Parts
from reasoner.planning.memory.quantized import FP8, quantized_bytes
from reasoner.planning.memory.tokens import longest_sequence, problems_of_rank
from reasoner.processes.machine import GIB, Machine
from reasoner.sampling.factory import MAX_SEQUENCES, merge_reason

VLLM = {"cpu": 1.2 * GIB, "cuda": 2.0 * GIB}
"""bytes of vLLM beside weights and cache: of its process; on a GPU, of its forward pass and graphs"""


def sampler_bytes(config: Config, model: ModelSize, engine: str, device: str) -> Parts:
    """A rank's sampler weights. vLLM's CPU build holds a tied output layer packed, beside the embedding."""
    if engine not in ("vllm", "hf"):
        return {}
    packed = model.embedding if engine == "vllm" and model.tied and device == "cpu" else 0
    alone = device == "cpu" and config.run.ranks == 1  # all parts of an engine are in one memory
    parts = 1 if alone else config.sampling.tensor_parallel
    if config.sampling.quantization and engine == "vllm":
        return {"sampler": quantized_bytes(config, model, FP8) / parts}
    return {"sampler": float((model.parameters + packed) * WIDTH[config.model.dtype]) / parts}


def cache_token_bytes(config: Config, model: ModelSize) -> float:
    """KV cache of one token, on one of the devices that an engine has."""
    shared = min(config.sampling.tensor_parallel, model.kv_heads or 1)
    return 2.0 * model.keys * model.layers * WIDTH[config.model.dtype] / shared


def cache_bytes(config: Config, model: ModelSize, machine: Machine, engine: str) -> float:
    """vLLM's KV cache: on a GPU what its share leaves; below 0 where that is too small for the rest."""
    if machine.device == "cpu":
        return config.sampling.kv_cache_gib * GIB
    taken = sum(sampler_bytes(config, model, engine, "cuda").values()) + VLLM["cuda"]
    return config.sampling.memory_share * machine.gpu_bytes - taken


def hf_cache_bytes(config: Config, model: ModelSize, device: str) -> float:
    """Of the responses that transformers draws at once, at their full length."""
    size = config.sampling.group_size
    groups = min(max(1, MAX_SEQUENCES[device] // size), problems_of_rank(config))
    return groups * size * longest_sequence(config) * cache_token_bytes(config, model)


def published_bytes(config: Config, model: ModelSize, engine: str, device: str) -> float:
    """The file that samplers load: all weights, or the adapter alone, in the number format in which it is trained."""
    whole = config.lora is None or merge_reason(config, engine, device)
    if whole:
        return float(model.parameters * WIDTH[config.model.dtype])
    return float(model.adapter * (4 if config.learner == "torch" else WIDTH[config.model.dtype]))


def route_bytes(config: Config, model: ModelSize) -> float:
    """The experts of all tokens that a rank samples for a step, and for those ahead, which stay in host memory until
    the step has learned from them: two bytes for each choice in each layer, for every response those of its prompt
    too."""
    if not config.learning.routing_replay:
        return 0.0
    groups = problems_of_rank(config) * (1 + config.sampling.lookahead) + -(-config.extra_groups // config.run.ranks)
    tokens = groups * config.sampling.group_size * longest_sequence(config)
    return 2.0 * tokens * model.layers * model.experts_per_token
