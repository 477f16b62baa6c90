"""Chooses and opens the learner that a configuration asks for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reasoner.config import Config
from reasoner.config.decisions import Decisions
from reasoner.distributed.ranks import Ranks
from reasoner.errors import MissingDependencyError
from reasoner.learning.deepspeed.settings import deepspeed_settings

if TYPE_CHECKING:
    from reasoner.learning.deepspeed.engine import DeepspeedLearner
    from reasoner.learning.torch_engine import TorchLearner


def choose_learner(config: Config) -> Literal["torch", "deepspeed"]:
    """`torch` or `deepspeed`.

    Raises:
        MissingDependencyError: deepspeed is asked for, or peft or bitsandbytes is needed, and not installed.
    """
    if config.learner == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise MissingDependencyError(
            f"{_reason(config)} asks for deepspeed, which is not installed: `DS_BUILD_OPS=0 pip install "
            "'reasoner[deepspeed]'`, or train on one rank with learning.engine = 'torch'"
        )
    if config.lora is not None and importlib.util.find_spec("peft") is None:
        raise MissingDependencyError("[lora] needs peft, which is not installed: pip install 'reasoner[lora]'")
    needs = [f"learning.optimizer = {config.learning.optimizer!r}"] if config.learning.optimizer != "adamw" else []
    needs += [f"lora.quantization = {config.lora.quantization!r}"] if config.lora and config.lora.quantization else []
    if needs and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            f"{needs[0]} needs bitsandbytes, which is not installed: pip install 'reasoner[small-gpu]'"
        )
    return config.learner


def describe_learner(config: Config) -> str:
    """What will train, and why.

    Raises:
        ConfigError: the user's DeepSpeed file contradicts the configuration.
    """
    if config.learner == "torch":
        return f"torch ({_reason(config)}){_adapter(config)}"
    deepspeed_settings(config.learning, config.model.dtype)
    zero = f"ZeRO {config.learning.deepspeed.zero_stage} over {_counted(config.run.ranks)}"
    if config.learning.sequence_parallel > 1:
        zero += f", {config.learning.sequence_parallel} to a row"
    return f"deepspeed, {zero} ({_reason(config)}){_adapter(config)}"


def open_learner(
    config: Config, decisions: Decisions, folder: Path, ranks: Ranks, checkpoint: Path | None = None
) -> TorchLearner | DeepspeedLearner:
    """Load the model in `folder` and prepare its optimiser, or resume from a `checkpoint` of it.

    Args:
        ranks: with DeepSpeed, those of the process group that is open.

    Raises:
        UserError: the model or the settings are not such as the engine can train.
    """
    if decisions.learner == "torch":
        from reasoner.learning.torch_engine import TorchLearner

        return TorchLearner(
            folder,
            device=decisions.device,
            dtype=config.model.dtype,
            config=config.learning,
            total_steps=config.optimizer_steps,
            trust_remote_code=config.model.trust_remote_code,
            checkpoint=checkpoint,
            lora=config.lora,
        )
    from reasoner.learning.deepspeed.engine import DeepspeedLearner

    return DeepspeedLearner(
        folder,
        device=decisions.device,
        dtype=config.model.dtype,
        config=config.learning,
        total_steps=config.optimizer_steps,
        ranks=ranks,
        trust_remote_code=config.model.trust_remote_code,
        checkpoint=checkpoint,
        lora=config.lora,
    )


def _reason(config: Config) -> str:
    if config.learning.engine != "auto":
        return "learning.engine"
    return "one rank" if config.run.ranks == 1 else "several ranks"


def _adapter(config: Config) -> str:
    lora = config.lora
    if lora is None:
        return ""
    kind = "LoRA" if lora.quantization is None else f"QLoRA ({lora.quantization})"
    return f", {kind} of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}"


def _counted(ranks: int) -> str:
    return f"{ranks} rank{'' if ranks == 1 else 's'}"
