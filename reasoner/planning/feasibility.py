"""What is known not to work, found before anything is loaded.

What the configuration alone shows is refused when it is read (`config.CHECKS`); here are the model and the machine.
"""

from __future__ import annotations

from collections.abc import Iterator

from reasoner.config import Config
from reasoner.distributed.ranks import launched
from reasoner.errors import UserError
from reasoner.models.size import ModelSize, tensor_parallel_obstacle
from reasoner.planning.estimate import RunEstimate
from reasoner.planning.memory.tokens import longest_sequence
from reasoner.processes.machine import Machine


def refuse_impossible(estimate: RunEstimate, nodes: int | None) -> None:
    """Refuse what cannot work with this model or on this machine.

    Args:
        nodes: machines like this one, on which ranks are to be started; None: they are started, and each sees the GPU
            of its own alone.

    Raises:
        UserError: all that was found, a line each.
    """
    config, model, machine = estimate.config, estimate.model, estimate.machine
    reasons = [
        *_model_obstacles(config, model),
        *_host_memory_obstacles(config, machine),
        *_quantization_obstacles(config, model, machine),
        *_sampler_obstacles(config, model),
        *_rank_obstacles(config, machine, nodes),
        *_gpu_obstacles(config, machine),
    ]
    if reasons:
        raise UserError("this run cannot work: " + "\n  ".join(reasons))


def _model_obstacles(config: Config, model: ModelSize) -> Iterator[str]:
    if config.learning.router_loss and not model.experts:
        name = model.architecture or "the model"
        yield f"learning.router_loss = {config.learning.router_loss:g}: {name} has no experts"
    if config.learning.routing_replay and not model.experts:
        yield f"learning.routing_replay: {model.architecture or 'the model'} has no experts; set it to false"
    if config.learning.experts != "auto" and not model.experts:
        yield f"learning.experts = {config.learning.experts!r}: {model.architecture or 'the model'} has no experts"
    slices = config.learning.sequence_parallel
    if model.heads % slices:
        possible = [str(count) for count in range(1, model.heads + 1) if model.heads % count == 0]
        yield (
            f"learning.sequence_parallel = {slices}: {model.architecture or 'the model'} has {model.heads} attention "
            f"heads, which {slices} ranks cannot share equally; possible: {', '.join(possible)}"
        )
    if config.has_sampler and 0 < model.context < longest_sequence(config):
        yield (
            f"sampling.max_prompt_tokens + sampling.max_tokens is {longest_sequence(config)}, and the model knows "
            f"{model.context} positions: lower one of them"
        )


def _host_memory_obstacles(config: Config, machine: Machine) -> Iterator[str]:
    if config.learning.offload_activations and machine.device == "cpu":
        yield "learning.offload_activations moves activations off a GPU, and there is none: leave it out"
    if config.learning.optimizer == "paged-adamw-8bit" and machine.device == "cpu":
        yield "learning.optimizer = 'paged-adamw-8bit' moves moments off a GPU, and there is none: use 'adamw-8bit'"


def _quantization_obstacles(config: Config, model: ModelSize, machine: Machine) -> Iterator[str]:
    if config.lora and config.lora.quantization and model.experts:
        name = model.architecture or "the model"
        yield (
            f"lora.quantization = {config.lora.quantization!r}: the experts of {name} are no linear layers, which "
            "bitsandbytes quantises alone: leave it out"
        )
    if config.sampling.quantization and machine.device == "cpu":
        yield (
            f"sampling.quantization = {config.sampling.quantization!r}: vLLM's CPU build has no kernels for it, and "
            "there is no GPU: leave it out"
        )


def _sampler_obstacles(config: Config, model: ModelSize) -> Iterator[str]:
    gpus = config.sampling.tensor_parallel
    if config.has_sampler and (why := tensor_parallel_obstacle(model, gpus)):
        yield f"sampling.tensor_parallel = {gpus} {why}"


def _rank_obstacles(config: Config, machine: Machine, nodes: int | None) -> Iterator[str]:
    ranks = config.run.ranks
    if config.online and config.learning.problems_per_step < ranks:
        yield (
            f"learning.problems_per_step = {config.learning.problems_per_step} with {ranks} ranks: some would have "
            f"nothing to sample; set learning.problems_per_step = {ranks} or more, or take fewer ranks"
        )
    here = machine.device == "cuda" and not machine.planned and launched().count == 1
    if nodes is not None and here and ranks > machine.per_node * nodes:
        yield (
            f"run.ranks is {ranks}, and this machine has {machine.per_node} GPUs, one for each rank: take fewer, or "
            "start them on several nodes (docs/scaling.md)"
        )


def _gpu_obstacles(config: Config, machine: Machine) -> Iterator[str]:
    if config.model.dtype != "bfloat16" or machine.device != "cuda" or machine.planned:
        return
    import torch

    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        yield f"model.dtype = 'bfloat16': {name} has no bfloat16 arithmetic; set model.dtype = 'float32'"
