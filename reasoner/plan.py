"""What a run is going to do, and why, in a few lines: printed before anything is loaded, and stored with the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoner.config import Config, SourceConfig
from reasoner.data import Splits
from reasoner.gro.presets import PRESETS
from reasoner.models import describe_model
from reasoner.settings import Resolved


def describe_plan(
    resolved: Resolved, splits: Splits, device: str, engine: str, *, training: bool = True
) -> Mapping[str, str]:
    """The facts of a run by name, in the order in which they matter.

    Args:
        device: `cpu` or `cuda`, as `resolve_device` found it.
        engine: `vllm` or `hf`, as the sampler's factory chose it.
        training: False leaves out what an evaluation alone does not use.

    Raises:
        UserError, MissingDependencyError: the model is known not to be there.
    """
    config = resolved.config
    asked, wanted = config.sampling.engine, config.model.device
    facts = {
        "task": f"{config.task}: {config.title}" if config.title else config.task,
        "profile": f"{config.profile or 'none'} ({resolved.origins['profile']})",
        "model": f"{describe_model(config.model.path)}, {config.model.dtype}",
        "device": f"{device} ({_device_reason(wanted, device)})",
        "engine": f"{engine} ({_engine_reason(asked, engine)})",
        "training data": describe_source(config.data.train, len(splits.train)),
        "evaluation data": describe_source(config.data.eval, len(splits.eval)),
        "rewards": describe_rewards(config),
        "method": describe_method(config),
        "steps": _steps(config),
        "output": config.run.output,
    }
    if not training:
        facts = {name: fact for name, fact in facts.items() if name not in ("training data", "method", "steps")}
    return facts | ({"note": " ".join(splits.notes)} if splits.notes else {})


def describe_method(config: Config) -> str:
    """The preset, its source, and the choices that it stands for, with what was overridden."""
    gro = config.gro
    choices = [
        f"credit {_choice(gro.credit)}",
        f"link {_choice(gro.link)}",
        f"aggregation {_choice(gro.aggregation)}",
        f"KL {gro.kl.coefficient:g}",
    ]
    return f"{gro.preset} ({PRESETS[gro.preset].paper}): {', '.join(choices)}"


def describe_rewards(config: Config) -> str:
    """Sources and weights: `math x 1, boxed_format x 0.5`."""
    return ", ".join(f"{reward.source} x {reward.weight:g}" for reward in config.rewards)


def describe_source(source: SourceConfig, problems: int | None = None) -> str:
    """Where problems come from, and how many they are when that is known."""
    if source.generator is not None:
        return f"{source.limit if problems is None else problems} from generator {source.generator}, seed {source.seed}"
    origin = source.path or f"{source.hub} ({source.split})"
    limit = "" if source.limit is None else f" (at most {source.limit})"
    return f"{origin}{limit}" if problems is None else f"{problems} from {origin}{limit}"


def _choice(choice: Any) -> str:
    values = {key: getattr(choice, key) for key in choice.__dataclass_fields__ if key != "kind"}
    named = ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
    return f"{choice.kind} ({named})" if named else str(choice.kind)


def _steps(config: Config) -> str:
    problems, size = config.learning.problems_per_step, config.sampling.group_size
    return (
        f"{config.run.steps} of {problems} problems x {size} responses, up to {config.sampling.max_tokens} tokens each"
    )


def _device_reason(wanted: str, device: str) -> str:
    if wanted != "auto":
        return "model.device"
    return "torch sees a CUDA device" if device == "cuda" else "torch sees no CUDA device"


def _engine_reason(asked: str, engine: str) -> str:
    if asked != "auto":
        return "sampling.engine"
    return "installed" if engine == "vllm" else "vllm is not installed"
