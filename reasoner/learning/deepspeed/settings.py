"""`[learning]` as a DeepSpeed configuration, laid over the user's own JSON file. No DeepSpeed is imported here.

What the learner's mathematics rests on is ours: batch sizes, accumulation, clipping, number format, ZeRO stage,
offload, the optimiser. A file that says something else is refused with every key that contradicts; what it adds
(buckets, overlap, logging of communication) is passed on as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoner.config import LearningConfig
from reasoner.errors import ConfigError, nearest

_ADDED = (
    "aio",
    "comms_logger",
    "communication_data_type",
    "csv_monitor",
    "flops_profiler",
    "memory_breakdown",
    "steps_per_print",
    "tensorboard",
    "wall_clock_breakdown",
    "wandb",
)
"""further keys of a file that change no gradient"""
_INSTEAD = {
    "optimizer": "learning.learning_rate, betas and weight_decay say it",
    "scheduler": "learning.warmup_steps and learning.decay say it",
    "train_batch_size": "learning.problems_per_step says it",
    "fp16": "float16 is not supported; use model.dtype = 'bfloat16'",
    "gradient_checkpointing": "learning.gradient_checkpointing says it",
}
"""keys that are often in such a file -> what to use"""


def deepspeed_settings(config: LearningConfig, dtype: str, device: str = "cpu") -> dict[str, Any]:
    """The complete configuration for `deepspeed.initialize`.

    Args:
        dtype: of the parameters.
        device: what is offloaded from a GPU is pinned in host memory, unless the file says otherwise: copies are five
            to ten times as fast.

    Raises:
        ConfigError: the file cannot be read, is no JSON object, has a key that is not known here, or contradicts ours.
    """
    settings = _own_settings(config, dtype)
    if config.deepspeed.config is None:
        return _with_defaults(settings, device)
    path = Path(config.deepspeed.config).expanduser()
    try:
        added = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"learning.deepspeed.config = {str(path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(added, dict):
        raise ConfigError(f"learning.deepspeed.config = {str(path)!r} must hold a JSON object, got {added!r}")
    if mistakes := [*_unknown(added, settings), *_contradictions(added, settings)]:
        raise ConfigError(f"learning.deepspeed.config = {str(path)!r}:\n  " + "\n  ".join(mistakes))
    return _with_defaults(_merge(added, settings), device)


def _with_defaults(settings: dict[str, Any], device: str) -> dict[str, Any]:
    """With what a file may say otherwise. Gradients of ranks are summed in float32: DeepSpeed would take the number
    format of the parameters, and round every sum."""
    for key in ("offload_optimizer", "offload_param"):
        if device == "cuda" and key in settings["zero_optimization"]:
            settings["zero_optimization"][key].setdefault("pin_memory", True)
    settings.setdefault("communication_data_type", "fp32")
    return settings


def _own_settings(config: LearningConfig, dtype: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.deepspeed.zero_stage}
    if zero["stage"] < 2:
        zero["overlap_comm"] = False  # DeepSpeed refuses it together with accumulation that the caller ends
    if config.deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.deepspeed.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Micro-batches differ in size and number from step to step: `step` ends the accumulation, not a count.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm or 0.0,  # DeepSpeed's own default is 1
        "bf16": {"enabled": dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        # torch's AdamW, also where its state is in host memory: the same steps as the torch engine's.
        "zero_force_ds_cpu_optimizer": False,
    }


def _unknown(file: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in file.items():
        if key in settings or key in _ADDED or _is_off(value):
            continue
        instead = _INSTEAD.get(key) or f"it is not one that can be added here.{nearest(key, [*settings, *_ADDED])}"
        yield f"{key}: {instead}; leave it out"


def _contradictions(file: Mapping[str, Any], settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, setting in settings.items():
        value = file.get(key, "auto")
        if isinstance(setting, dict) and isinstance(value, dict):
            yield from _contradictions(value, setting, f"{path}{key}.")
        elif value not in (setting, "auto"):
            yield f"{path}{key} = {json.dumps(value)} contradicts {json.dumps(setting)}; {_instead(path + key)}"
    if path == "zero_optimization.":
        for key in ("offload_optimizer", "offload_param"):
            if key not in settings and file.get(key, {}).get("device", "none") != "none":
                yield f"{path}{key}: {_instead(path + key)}"


def _instead(key: str) -> str:
    setting = {
        "zero_optimization.stage": "learning.deepspeed.zero_stage",
        "zero_optimization.offload_optimizer": "learning.deepspeed.offload_optimizer",
        "zero_optimization.offload_param": "learning.deepspeed.offload_parameters",
        "gradient_clipping": "learning.max_grad_norm",
        "bf16.enabled": "model.dtype",
    }.get(key)
    return f"set {setting} instead" if setting else "leave it out: the learner rests on it"


def _is_off(value: Any) -> bool:
    """Whether a section says of itself that it is off."""
    return value == "auto" or (isinstance(value, dict) and value.get("enabled") is False)


def _merge(file: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in file.items() if not _is_off(value)} | dict(settings)
    for key, setting in settings.items():
        if isinstance(setting, dict) and isinstance(file.get(key), dict):
            merged[key] = _merge(file[key], setting)
    return merged
