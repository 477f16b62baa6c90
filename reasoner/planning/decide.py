"""Decides what a configuration leaves open: the only place that does."""

from __future__ import annotations

from reasoner.config import Config
from reasoner.config.decisions import Decisions, SamplerEngine
from reasoner.learning.factory import choose_learner
from reasoner.models.resolve import resolve_device
from reasoner.sampling.factory import choose_engine, longest_context, merge_reason


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
    return Decisions(device, engine, learner, longest_context(config), merged, rank)


def planned_engine(config: Config) -> SamplerEngine:
    """The sampler of a training on another machine, on which all packages are taken to be there."""
    if not config.has_sampler:
        return ""
    if config.sampling.servers:
        return "servers"
    return "vllm" if config.sampling.engine == "auto" else config.sampling.engine
