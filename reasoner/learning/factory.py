"""Chooses and opens the learner that a configuration asks for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reasoner.config import Config
from reasoner.errors import MissingDependencyError
from reasoner.learning.deepspeed_settings import deepspeed_settings

if TYPE_CHECKING:
    from reasoner.learning.learner import Learner


def choose_learner(config: Config) -> str:
    """`torch` or `deepspeed`.

    Raises:
        MissingDependencyError: deepspeed is asked for and not installed.
    """
    asked = config.learning.engine
    if asked == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise MissingDependencyError(
            "learning.engine = 'deepspeed' and deepspeed is not installed: `DS_BUILD_OPS=0 pip install "
            "'reasoner[deepspeed]'`, or set learning.engine = 'torch'"
        )
    return "torch" if asked == "auto" else asked


def describe_learner(config: Config) -> str:
    """What will train, and why.

    Raises:
        MissingDependencyError: as `choose_learner`.
        ConfigError: the user's DeepSpeed file contradicts the configuration.
    """
    engine = choose_learner(config)
    reason = "one process" if config.learning.engine == "auto" else "learning.engine"
    if engine == "torch":
        return f"torch ({reason})"
    deepspeed_settings(config.learning, config.model.dtype)
    return f"deepspeed, ZeRO {config.learning.deepspeed.zero_stage} ({reason})"


@contextmanager
def open_learner(config: Config, folder: Path, device: str) -> Iterator[Learner]:
    """Load the model in `folder` and prepare its optimiser.

    Raises:
        MissingDependencyError: deepspeed is asked for and not installed.
        UserError: the model or the settings are not such as the engine can train.
    """
    engine = choose_learner(config)
    if engine == "torch":
        from reasoner.learning.torch_engine import TorchLearner

        yield TorchLearner(
            folder,
            device=device,
            dtype=config.model.dtype,
            config=config.learning,
            total_steps=config.optimizer_steps,
            trust_remote_code=config.model.trust_remote_code,
        )
        return
    from reasoner.ranks import open_ranks

    with open_ranks(device):
        from reasoner.learning.deepspeed_engine import DeepspeedLearner

        yield DeepspeedLearner(
            folder,
            device=device,
            dtype=config.model.dtype,
            config=config.learning,
            total_steps=config.optimizer_steps,
            trust_remote_code=config.model.trust_remote_code,
        )
