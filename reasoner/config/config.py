"""The whole configuration: all sections, checked against each other.

Values come in layers (`reasoner.loading`): built-in defaults, preset, task file, profile, `--config`, `--set`. What is
impossible is refused here, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Self

from pydantic import model_validator

from reasoner.config.consistency import CHECKS, check_parts
from reasoner.config.environment import EnvironmentConfig
from reasoner.config.objective import GroConfig
from reasoner.config.rewards import RewardConfig
from reasoner.config.sections import EvaluationConfig, PartConfig, Sections
from reasoner.errors import ConfigError


class Config(Sections):
    """A complete, resolved configuration. Starting from it reproduces the run."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_parts(self)
        named = {f"mixture.{name}: ": part for name, part in self.parts.items()} if self.mixture else {"": self}
        named |= {f"evaluation.also.{name}: ": part for name, part in self.also.items()}
        for where, part in named.items():
            for check in CHECKS:
                try:
                    check(part)
                except ValueError as error:
                    raise ValueError(f"{where}{error}") from None
        return self

    @property
    def parts(self) -> Mapping[str, Config]:
        """The tasks to train on by name, each as the configuration of a run on it alone; a single task is its own only
        part."""
        if not self.mixture:
            return {self.task: self}
        return {part.task: self._part(part) for part in self.mixture}

    @property
    def also(self) -> Mapping[str, Config]:
        """The further tasks to evaluate on by name, each as the configuration of an evaluation of it."""
        parts = self.evaluation.also if self.evaluation else []
        return {part.task: self._part(part).model_copy(update={"gro": GroConfig()}) for part in parts}

    @property
    def evaluated(self) -> Mapping[str, Config]:
        """The tasks whose problems the policy answers in an evaluation, by name: those to train on, then the others."""
        own = self.parts if self.online or self.evaluates_itself or not self.gro.terms else {}
        return {**own, **self.also}

    @property
    def scored(self) -> Mapping[str, Sequence[RewardConfig]]:
        """The rewards of every task whose responses are scored, by its name."""
        if self.mixture or self.also:
            return {name: task.rewards for name, task in self.evaluated.items()}
        return {self.task: self.rewards}

    @property
    def extra_groups(self) -> int:
        """Groups that are being sampled beyond those that a step learns from (`sampling.over_sample`)."""
        return ceil(round(self.sampling.over_sample * self.learning.problems_per_step, 9))

    @property
    def environments(self) -> Mapping[str, EnvironmentConfig]:
        """The tools and environments of all tasks that have some, by task."""
        tasks = {self.task: self, **self.parts, **self.also}
        return {name: task.environment for name, task in tasks.items() if task.environment is not None}

    @property
    def without_other_tasks(self) -> Config:
        """The configuration of a single task without the further tasks that it is evaluated on."""
        own = self.evaluation.model_copy(update={"also": [], "best": ""}) if self.evaluation else None
        return self.model_copy(update={"evaluation": own})

    def part(self, name: str) -> Config:
        """The configuration of the task that a problem is of (`Problem.part`)."""
        return self.evaluated[name] if self.mixture or name in self.also else self

    def _part(self, part: PartConfig) -> Config:
        offline = {name: getattr(self.data, name) for name in ("pairs", "labelled", "demos")}
        evaluation = None if part.evaluation is None else EvaluationConfig(**dict(part.evaluation))
        return self.model_copy(
            update={
                "task": part.task,
                "mixture": [],
                "prompt": part.prompt,
                "data": part.data.model_copy(update=offline),
                "sampling": self.sampling.model_copy(update=dict(part.sampling)),
                "rewards": part.rewards,
                "evaluation": evaluation,
                "environment": part.environment,
            }
        )

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
