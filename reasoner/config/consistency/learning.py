"""What the learner computes, with which weights, on how many ranks."""

from __future__ import annotations

from reasoner.config.sections import Sections
from reasoner.gro.spec.terms import SOURCES, Advantage, Linear, Teacher


def check_sequence_parallel(config: Sections) -> None:
    """Ranks divide into neighbours that share packed rows."""
    count, ranks = config.learning.sequence_parallel, config.run.ranks
    if count == 1:
        return
    if ranks % count:
        fitting = [str(number) for number in range(1, ranks + 1) if ranks % number == 0]
        raise ValueError(
            f"learning.sequence_parallel = {count} does not divide the {ranks} rank{'s' if ranks > 1 else ''} into "
            f"neighbours that share rows; possible: {', '.join(fitting)} (run.ranks, or --gpus, is the number of ranks)"
        )
    if config.learning.packing == "padded":
        raise ValueError(
            f"learning.sequence_parallel = {count} shares packed rows, and learning.packing is 'padded'; use 'auto'"
        )


def check_offload(config: Sections) -> None:
    """Only inputs of recomputed layers are offloaded."""
    if config.learning.offload_activations and config.learning.gradient_checkpointing is not True:
        raise ValueError(
            "learning.offload_activations moves the inputs of recomputed layers: set "
            "learning.gradient_checkpointing = true with it, or leave it out"
        )


def check_mlp_tile(config: Sections) -> None:
    """Tiles and what spreads weights over the ranks exclude each other."""
    tile, learning = config.learning.mlp_tile, config.learning
    if tile is not None and config.learner == "deepspeed" and learning.deepspeed.zero_stage == 3:
        raise ValueError(
            f"learning.mlp_tile = {tile} with learning.deepspeed.zero_stage = 3: ranks collect a layer's weights "
            "together, once for every tile, and those with longer rows have more tiles; use zero_stage 2, or "
            "learning.gradient_checkpointing = true without tiles"
        )


def check_optimizer(config: Sections) -> None:
    """The optimiser exists on the device and in the engine."""
    learning = config.learning
    deepspeed = learning.engine == "deepspeed" or (learning.engine == "auto" and config.run.ranks > 1)
    if learning.optimizer != "adamw" and deepspeed:
        raise ValueError(
            f"learning.optimizer = {learning.optimizer!r} needs the torch engine on one rank, and DeepSpeed spreads "
            "AdamW's moments over the ranks instead; use 'adamw'"
        )
    if learning.optimizer == "paged-adamw-8bit" and config.model.device == "cpu":
        raise ValueError(
            "learning.optimizer = 'paged-adamw-8bit' moves moments off a GPU, and model.device is 'cpu'; use "
            "'adamw-8bit'"
        )


def check_quantization(config: Sections) -> None:
    """Weights of few bits stay as they are, and what they differ by is corrected."""
    lora, sampling = config.lora, config.sampling
    keys = {"lora.quantization": lora.quantization if lora else None, "sampling.quantization": sampling.quantization}
    settings = [f"{key} = {value!r}" for key, value in keys.items() if value]
    if not settings or not config.gro.terms:
        return
    if lora is None:
        raise ValueError(
            f"{settings[0]} rounds weights that must not change, and all weights are trained: train an adapter "
            "(--set lora.rank=16), or leave it out"
        )
    if lora.handover == "merged":
        raise ValueError(
            f"{settings[0]} has the adapter handed over alone, because rounded weights are not replaced, and "
            "lora.handover is 'merged'; use 'auto'"
        )
    if sampling.quantization and (sampling.servers or sampling.engine == "hf"):
        place = "sampling.servers" if sampling.servers else "sampling.engine = 'hf'"
        raise ValueError(
            f"{settings[-1]} is of a vLLM engine that the run starts, and not of {place}; leave one of them out"
        )
    if sampling.quantization and config.model.device == "cpu":
        raise ValueError(
            f"{settings[-1]} needs CUDA, because vLLM's CPU build has no kernels for it, and model.device is 'cpu'; "
            "leave it out"
        )
    if lora.quantization and config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3:
        raise ValueError(
            "lora.quantization = 'nf4' with learning.deepspeed.zero_stage = 3: DeepSpeed would spread 4-bit numbers "
            "without the scales that belong to them; use zero_stage 2, whose ranks hold all of them"
        )
    for name, term in config.gro.terms.items():
        if term.term.is_corrected_when_stale and term.correction.kind == "none":
            raise ValueError(
                f"gro.terms.{name}.correction.kind = 'none' with {settings[0]}: the sampler's probabilities are not "
                "the learner's, and without a correction the gradient would be of neither; use 'truncate' or 'mask' "
                f"(--set gro.terms.{name}.correction.kind=truncate)"
            )


def check_engine(config: Sections) -> None:
    """DeepSpeed can do what it is asked for, and its section is not there in vain."""
    learning = config.learning
    if learning.engine == "torch" and learning.deepspeed != type(learning.deepspeed)():
        raise ValueError("learning.deepspeed has no effect with learning.engine = 'torch'; leave one of them out")
    if learning.engine == "torch" and config.run.ranks > 1:
        raise ValueError(
            f"learning.engine = 'torch' trains with one rank, and run.ranks is {config.run.ranks}; use 'auto' or "
            "'deepspeed'"
        )
    if config.learner != "deepspeed":
        return
    if learning.deepspeed.zero_stage == 0 and config.model.dtype == "bfloat16":
        raise ValueError(
            "learning.deepspeed.zero_stage = 0 with model.dtype = 'bfloat16': DeepSpeed would add gradients up in "
            "bfloat16; use zero_stage 1, 2 or 3"
        )


def check_updates(config: Sections) -> None:
    """Batches divide into mini-batches of whole groups, and further updates have a ratio."""
    learning = config.learning
    updates = learning.updates_per_step * learning.epochs
    for source in SOURCES:
        if config.gro.reads(source) and config.per_step(source) % learning.updates_per_step:
            key = "learning.problems_per_step" if source == "online" else f"data.{source}.per_step"
            raise ValueError(
                f"{key} = {config.per_step(source)} is not divisible by learning.updates_per_step = "
                f"{learning.updates_per_step}: every mini-batch holds whole groups"
            )
    for name, term in config.gro.terms.items():
        online = term.source == "online" and isinstance(term.credit, Advantage | Teacher)
        if isinstance(term.link, Linear) and online and updates > 1:
            raise ValueError(
                f"learning.updates_per_step x learning.epochs = {updates} with gro.terms.{name}.link.kind = 'linear': "
                "without a ratio the second update would be off-policy and wrong; use 1, or link.kind = 'clip'"
            )
    if learning.warmup_steps > config.optimizer_steps:
        raise ValueError(
            f"learning.warmup_steps = {learning.warmup_steps} is more than the run's {config.optimizer_steps} "
            "optimiser steps"
        )
