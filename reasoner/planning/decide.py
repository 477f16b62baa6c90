"""Decides what a configuration leaves open: the only place that does."""

from __future__ import annotations

from dataclasses import replace

from reasoner.config import Config
from reasoner.config.decisions import Decisions, SamplerEngine
from reasoner.learning.factory import choose_learner
from reasoner.loading import Resolved
from reasoner.models.resolve import resolve_device
from reasoner.sampling.factory import choose_engine, longest_context, merge_reason

ALONE_SHARE = 0.85
"""of the GPU's memory for the engine, where the configuration leaves it open: there is no learner beside it"""


def decide(config: Config, *, training: bool = True) -> Decisions:
    """What is decided for this machine, whose devices and packages count.

    Args:
        training: False for an evaluation, which samples always and trains never.

    Raises:
        MissingDependencyError: an engine that is asked for, or torch or peft, is not installed.
        UserError: cuda is asked for and not there, or the sampler cannot take the adapter alone as it is asked to.
    """
    device = resolve_device(config.model.device)
    engine = choose_engine(config.sampling) if config.has_sampler or not training else ""
    if not training:
        return Decisions(device, engine, "", longest_context(config))
    learner = choose_learner(config)
    merged = merge_reason(config, engine, device) if config.lora and engine else ""
    rank = config.lora.rank if config.lora and engine and not merged else 0
    replay = config.learning.routing_replay
    return Decisions(device, engine, learner, longest_context(config), merged, rank, returns_routes=replay)


def planned_engine(config: Config) -> SamplerEngine:
    """The sampler of a training on another machine, on which all packages are taken to be there."""
    if not config.has_sampler:
        return ""
    if config.sampling.servers:
        return "servers"
    return "vllm" if config.sampling.engine == "auto" else config.sampling.engine


def alone(resolved: Resolved) -> Resolved:
    """The configuration of an evaluation that has the machine for itself."""
    if resolved.origins["sampling.memory_share"] != "default":
        return resolved
    sampling = resolved.config.sampling.model_copy(update={"memory_share": ALONE_SHARE})
    return replace(resolved, config=resolved.config.model_copy(update={"sampling": sampling}))
