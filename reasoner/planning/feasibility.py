"""What is known not to work, found before anything is loaded.

What the configuration alone shows is refused when it is read (`config.CHECKS`); here are the model and the machine.
"""

from __future__ import annotations

from collections.abc import Iterator

from reasoner.config import Config
from reasoner.distributed.ranks import launched
from reasoner.errors import UserError
from reasoner.models.size import ModelSize, why_no_experts, why_not_spread
from reasoner.planning.estimate import RunEstimate
from reasoner.planning.memory import longest_sequence
from reasoner.processes.machine import Machine


def refuse_impossible(estimate: RunEstimate, nodes: int = 1) -> None:
    """Refuse what cannot work with this model or on this machine.

    Args:
        nodes: machines like this one.

    Raises:
        UserError: all that was found, a line each.
    """
    config, model, machine = estimate.config, estimate.model, estimate.machine
    found = [
        *_of_model(config, model),
        *_of_sampler(config, model),
        *_of_ranks(config, machine, nodes),
        *_of_gpu(config, machine),
    ]
    if found:
        raise UserError("this run cannot work: " + "\n  ".join(found))


def _of_model(config: Config, model: ModelSize) -> Iterator[str]:
    if config.learner == "deepspeed" and model.experts > 1:
        yield f"learning.engine = 'deepspeed': {why_no_experts(model.architecture or 'the model', model.experts)}"
    if config.has_sampler and 0 < model.context < longest_sequence(config):
        yield (
            f"sampling.max_prompt_tokens + sampling.max_tokens is {longest_sequence(config)}, and the model knows "
            f"{model.context} positions: lower one of them"
        )


def _of_sampler(config: Config, model: ModelSize) -> Iterator[str]:
    gpus = config.sampling.tensor_parallel
    if config.has_sampler and (why := why_not_spread(model, gpus)):
        yield f"sampling.tensor_parallel = {gpus} {why}"


def _of_ranks(config: Config, machine: Machine, nodes: int) -> Iterator[str]:
    ranks = config.run.ranks
    if config.online and config.learning.problems_per_step < ranks:
        yield (
            f"learning.problems_per_step = {config.learning.problems_per_step} with {ranks} ranks: some would have "
            f"nothing to sample; set learning.problems_per_step = {ranks} or more, or take fewer ranks"
        )
    alone = machine.device == "cuda" and not machine.planned and launched().count == 1
    if alone and ranks > machine.per_node * nodes:
        yield (
            f"run.ranks is {ranks}, and this machine has {machine.per_node} GPUs, one for each rank: take fewer, or "
            "start them on several nodes (docs/scaling.md)"
        )


def _of_gpu(config: Config, machine: Machine) -> Iterator[str]:
    if config.model.dtype != "bfloat16" or machine.device != "cuda" or machine.planned:
        return
    import torch

    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        yield f"model.dtype = 'bfloat16': {name} has no bfloat16 arithmetic; set model.dtype = 'float32'"
