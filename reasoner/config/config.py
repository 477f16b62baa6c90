"""The whole configuration: all sections, checked against each other.

Values come in layers (`reasoner.loading`): built-in defaults, preset, task file, profile, `--config`, `--set`. What is
impossible is refused here, before anything is loaded.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from reasoner.config.consistency import CHECKS
from reasoner.config.sampling import EvaluationConfig
from reasoner.config.sections import Sections
from reasoner.errors import ConfigError


class Config(Sections):
    """A complete, resolved configuration. Starting from it reproduces the run."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for check in CHECKS:
            check(self)
        return self

    @property
    def required_evaluation(self) -> EvaluationConfig:
        """`evaluation`, where the command needs it.

        Raises:
            ConfigError: it is not set, or does not say what is correct.
        """
        if self.evaluation is None or not self.evaluation.correct:
            raise ConfigError(
                "evaluation.correct is needed and not set. It names the reward source whose value decides whether a "
                "response is correct: --set evaluation.correct=SOURCE."
            )
        return self.evaluation

    def check_trains(self, typed: str) -> None:
        """Refuse to train on a task that only evaluates.

        Args:
            typed: what names the task on the command line (`Resolved.typed`).

        Raises:
            ConfigError: there is no method; it says how to evaluate, and how to train all the same.
        """
        if not self.gro.terms:
            raise ConfigError(
                f"task {self.task!r} only evaluates: it names no method to train with. Evaluate a model on it with "
                f"`reasoner eval {typed}`; to train on it, give it a method and training problems: "
                "--set gro.preset=grpo --set data.train.path=FILE (`reasoner algorithms list`)."
            )
