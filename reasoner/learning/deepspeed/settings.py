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


def deepspeed_settings(config: LearningConfig, dtype: str) -> dict[str, Any]:
    """The complete configuration for `deepspeed.initialize`.

    Raises:
        ConfigError: the file cannot be read, is no JSON object, has a key that is not known here, or contradicts ours.
    """
    ours = _ours(config, dtype)
    if config.deepspeed.config is None:
        return ours
    path = Path(config.deepspeed.config).expanduser()
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"learning.deepspeed.config = {str(path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(theirs, dict):
        raise ConfigError(f"learning.deepspeed.config = {str(path)!r} must hold a JSON object, got {theirs!r}")
    if mistakes := [*_unknown(theirs, ours), *_contradictions(theirs, ours)]:
        raise ConfigError(f"learning.deepspeed.config = {str(path)!r}:\n  " + "\n  ".join(mistakes))
    return _laid_over(theirs, ours)


def _ours(config: LearningConfig, dtype: str) -> dict[str, Any]:
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


def _unknown(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for key, value in theirs.items():
        if key in ours or key in _ADDED or _is_off(value):
            continue
        instead = _INSTEAD.get(key) or f"it is not one that can be added here.{nearest(key, [*ours, *_ADDED])}"
        yield f"{key}: {instead}; leave it out"


def _contradictions(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, mine in ours.items():
        value = theirs.get(key, "auto")
        if isinstance(mine, dict) and isinstance(value, dict):
            yield from _contradictions(value, mine, f"{path}{key}.")
        elif value not in (mine, "auto"):
            yield f"{path}{key} = {json.dumps(value)} contradicts {json.dumps(mine)}; {_where(path + key)}"
    if path == "zero_optimization.":
        for key in ("offload_optimizer", "offload_param"):
            if key not in ours and theirs.get(key, {}).get("device", "none") != "none":
                yield f"{path}{key}: {_where(path + key)}"


def _where(key: str) -> str:
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


def _laid_over(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in theirs.items() if not _is_off(value)} | dict(ours)
    for key, mine in ours.items():
        if isinstance(mine, dict) and isinstance(theirs.get(key), dict):
            merged[key] = _laid_over(theirs[key], mine)
    return merged
