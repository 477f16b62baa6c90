"""Low-rank adapters (2106.09685): y = W x + (alpha / rank) B A x, with W frozen and B = 0 at the start.

The adapter sits inside the model's own linear layers (peft puts it there), so every engine trains it as it trains a
model. What leaves the learner is merged, W + (alpha / rank) B A, under the names of the plain model: readers of a saved
model know nothing of adapters, and a sampler only where it can take A and B alone. With the adapter off the model is
the initial one: the reference policy costs no second copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reasoner.config import LoraConfig
from reasoner.errors import ConfigError, RunError, UserError
from reasoner.models.tensor_files import ADAPTED, read_files, write_shards
from reasoner.records import Group

_BASE = ".base_layer."
_STEM = "adapter"
"""of the files in which a checkpoint has it"""
_WHOLE = "whole"
_ROUTERS = frozenset({"gate", "wg", "router", "shared_expert_gate", "modality_router"})
"""linear layers that decide which experts, or how much of them, a token goes through"""
_SEED = 0
"""of A's initial values: the same on every rank"""


def add_adapter(model: Any, config: LoraConfig) -> None:
    """Freeze `model` and put an adapter beside the linear layers that `config.targets` names.

    `all-linear` leaves routers as they are: an adapter that moves them moves which experts are trained.

    Raises:
        ConfigError: a target names no layer that can have an adapter.
        UserError: the model has none.
    """
    import peft

    possible = adaptable_layers(model)
    if not possible:
        raise UserError(
            f"{type(model).__name__} has no plain linear layers inside, so that it cannot have an adapter: remove "
            "[lora] to train all weights"
        )
    if config.targets == ["all-linear"]:
        chosen = [name for name in possible if _last(name) not in _ROUTERS]
    else:
        chosen = [name for name in possible if _last(name) in config.targets]
        if missing := sorted(set(config.targets) - {_last(name) for name in possible}):
            raise ConfigError(
                f"lora.targets = {config.targets}: {type(model).__name__} has no such layers that can have an adapter: "
                f"{', '.join(missing)}. There are {', '.join(sorted({_last(name) for name in possible}))}, and "
                "'all-linear' for all of them but routers"
            )
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        target_modules=[f"{_WHOLE}.{name}" for name in chosen],
        lora_dropout=0.0,
    )
    # In a module that has no configuration: for some models peft would take `gate_proj` for that of the experts.
    container = nn.ModuleDict({_WHOLE: model})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        peft.inject_adapter_in_model(settings, container)


def adaptable_layers(model: Any) -> dict[str, nn.Linear]:
    """Layers that can have an adapter, by name.

    Not the output layer; not what is no linear layer or does more than one (experts that are one tensor, routers that
    choose); not layers that share one weight, into which only one adapter could be merged; nothing outside the part
    that reads text; and of a Mamba layer `in_proj` alone, because its kernels take the other weights without calling
    their layers.
    """
    text = {id(module) for module in model.get_decoder().modules()} - {id(model.get_output_embeddings())}
    layers_of = Counter(id(module.weight) for module in model.modules() if isinstance(module, nn.Linear))
    linear = {}
    for name, module in model.named_modules():
        plain = type(module).forward is nn.Linear.forward or _last(name) not in _ROUTERS
        parent = model.get_submodule(name.rpartition(".")[0])
        mamba = hasattr(parent, "A_log") and hasattr(parent, "D")
        if not isinstance(module, nn.Linear) or layers_of[id(module.weight)] > 1:
            continue
        if plain and id(module) in text and (not mamba or _last(name) == "in_proj"):
            linear[name] = module
    return linear


def adapted(model: nn.Module) -> list[str]:
    """Last parts of the names of the layers that have an adapter, in alphabetical order."""
    return sorted({_last(name) for name, _ in _layers(model)})


def _last(name: str) -> str:
    return name.rpartition(".")[2]


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before it had an adapter."""
    layers = [module for _, module in _layers(model)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def sources(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """The weights of the plain model, by its own names: what each is made of.

    Args:
        state: of the model, with its adapter if it has one.

    Returns:
        name -> (W,), or (W, A, B) where there is an adapter (`tensor_files.merge`).
    """
    parts: dict[str, tuple[Tensor, ...]] = {}
    for name, value in state.items():
        if ADAPTED in name:
            continue
        prefix, inside, suffix = name.partition(_BASE)
        pair = [state[f"{prefix}.lora_{part}.default.weight"] for part in "AB"] if inside and suffix == "weight" else []
        parts[f"{prefix}.{suffix}" if inside else name] = (value, *pair)
    return parts


def only_adapter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's own weights among those of the model that has it."""
    return {name: value for name, value in state.items() if ADAPTED in name}


def adapter_names(weights: Iterable[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """What the adapter's weights are called beside the model as its folder names it.

    Args:
        weights: names of `only_adapter`.
        renamed: name in memory -> name in the folder, of the weights that are the same in both.

    Raises:
        ConfigError: one is beside a weight that the folder has in another form.
    """
    names = {}
    for name in weights:
        layer, _, suffix = name.partition(ADAPTED)
        if f"{layer}.weight" not in renamed:
            raise ConfigError(
                f"the adapter cannot be handed over alone: the folder of the model has {layer}.weight in another form "
                "than it is trained, and an adapter has only one; set lora.handover = 'merged', and leave "
                "lora.quantization and sampling.quantization out, which need the adapter handed over alone"
            )
        names[name] = f"{renamed[f'{layer}.weight'].removesuffix('.weight')}{ADAPTED}{suffix}"
    return names


def save_adapter(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Write what `only_adapter` gave, exactly."""
    write_shards(folder, _STEM, weights)


def read_adapter(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """What `save_adapter` wrote."""
    return read_files(folder, f"{_STEM}-*")


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Take the weights of the model's adapter from what `save_adapter` wrote.

    Raises:
        RunError: it was written with another model, or another adapter.
    """
    own, saved = only_adapter(dict(model.named_parameters())), dict(read_adapter(folder))
    for name in sorted(own.keys() | saved.keys()):
        expected, actual = (list(tensors[name].shape) if name in tensors else "missing" for tensors in (own, saved))
        if expected != actual:
            raise RunError(
                f"{folder} does not hold this adapter: {name} is {actual} there and {expected} in the model: the "
                "checkpoint was made with another model, or another version of peft"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(saved[name])


class Adapted(Protocol):
    """A learner with an adapter."""

    policy: Any

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[Sequence[float]]:
        """(R)(T) log-probability of every response token."""
        ...


@dataclass(frozen=True, slots=True)
class WithoutAdapter:
    """The initial model inside a learner that trains an adapter: its reference policy."""

    learner: Adapted

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[Sequence[float]]:
        with adapter_off(self.learner.policy.model):
            return self.learner.logprobs([group.without_routes() for group in groups], temperature)


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
