"""All sections of a configuration together, and what follows from them. `config.py` adds the checks between them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from reasoner.config.data import CurriculumConfig, DataConfig, OfflineConfig, PromptConfig
from reasoner.config.environment import EnvironmentConfig
from reasoner.config.learning import CriticConfig, LearningConfig, LoraConfig, PolicyConfig, TeacherConfig
from reasoner.config.objective import GroConfig
from reasoner.config.rewards import RewardConfig, ScoringConfig
from reasoner.config.run import RunConfig
from reasoner.config.sampling import EvaluationConfig, HandoverConfig, SamplingConfig
from reasoner.config.section import Section
from reasoner.gro.spec.terms import Source


class Sections(Section):
    """Every key of a configuration, each section checked on its own."""

    task: str
    """Name of the task."""
    title: str = ""
    """One line that says what the task trains."""
    profile: str
    """Name of the chosen profile."""
    plugins: list[str] = Field(default_factory=list)
    """Python files with hooks, loaded in addition to the installed distributions."""
    run: RunConfig = Field(default_factory=RunConfig)
    """Length of the run, its folder and its checkpoints."""
    model: PolicyConfig
    """The model that is trained."""
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    """How a data row becomes a prompt."""
    data: DataConfig
    """Problems to train and evaluate on, and offline responses."""
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    """Which training problems a step takes."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """How training responses are sampled."""
    environment: EnvironmentConfig | None = None
    """Tools and an environment; with `none` a response is one turn."""
    rewards: list[RewardConfig] = Field(default_factory=list)
    """Reward sources and their weights."""
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    """The worker processes that run reward sources."""
    gro: GroConfig = Field(default_factory=GroConfig)
    """The objective; without one the task only evaluates."""
    learning: LearningConfig = Field(default_factory=LearningConfig)
    """The optimiser and the memory budget of the update."""
    lora: LoraConfig | None = None
    """Train a low-rank adapter; `none` trains all weights."""
    critic: CriticConfig = Field(default_factory=CriticConfig)
    """The value model of terms whose baseline is a critic."""
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    """The frozen model of terms whose credit is a teacher's."""
    handover: HandoverConfig = Field(default_factory=HandoverConfig)
    """How it is verified that the sampler holds the trained weights."""
    evaluation: EvaluationConfig | None = None
    """Evaluation before, during and after training; needed by terms that read online groups."""
    trackers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Trackers that get the figures of a training in addition to its run folder, with their options:
    `[trackers.tensorboard]`."""

    @property
    def online(self) -> bool:
        """Whether some term reads online groups."""
        return self.gro.reads("online")

    @property
    def has_sampler(self) -> bool:
        """Whether a training samples and scores.

        It does for terms that read online groups, and for its evaluations alone where there are problems in
        `data.eval`, rewards, and one that decides.
        """
        decides = self.evaluation is not None and self.evaluation.correct != ""
        return self.online or (self.data.eval is not None and bool(self.rewards) and decides)

    @property
    def needs_initial(self) -> bool:
        """Whether the initial model is kept beside the trained one: as the reference, or as the teacher."""
        return self.gro.needs_reference or (self.gro.needs_teacher and self.teacher.path is None)

    @property
    def loads_teacher(self) -> bool:
        """Whether every rank holds a teacher that is another model."""
        return self.gro.needs_teacher and self.teacher.path is not None and not self.teacher.servers

    @property
    def conditions(self) -> dict[str, str]:
        """Reward source -> the one that it is `when`."""
        return {reward.source: reward.when for reward in self.rewards if reward.when is not None}

    @property
    def learner(self) -> Literal["torch", "deepspeed"]:
        """The engine that computes gradients and steps."""
        if self.learning.engine == "auto":
            return "torch" if self.run.ranks == 1 else "deepspeed"
        return self.learning.engine

    @property
    def optimizer_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.run.steps * self.learning.updates_per_step * self.learning.epochs

    def per_step(self, source: Source) -> int:
        """Groups of a source per training step."""
        offline: OfflineConfig | None = None if source == "online" else getattr(self.data, source)
        return (offline.per_step if offline else None) or self.learning.problems_per_step
