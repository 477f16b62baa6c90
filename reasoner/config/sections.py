"""All sections of a configuration together, and what follows from them. `config.py` adds the checks between them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from reasoner.config.data import CurriculumConfig, DataConfig, OfflineConfig, PromptConfig
from reasoner.config.environment import EnvironmentConfig
from reasoner.config.learning import CriticConfig, LearningConfig, LoraConfig, PolicyConfig, TeacherConfig
from reasoner.config.objective import GroConfig
from reasoner.config.rewards import RewardConfig, ScoringConfig
from reasoner.config.run import RunConfig
from reasoner.config.sampling import HandoverConfig, PartEvaluation, PartSampling, SamplingConfig
from reasoner.config.section import Section
from reasoner.gro.spec.terms import Source


def _weight(value: object) -> object:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if value != "size" and not (math.isfinite(number) and number > 0):
        raise PydanticCustomError("weight", 'must be a number above 0, or "size"')
    return value


class PartConfig(Section):
    """`[[evaluation.also]]`: another task that a run evaluates on. It keeps its own prompt, data, limits and rewards,
    and every key of them can be set here. `limit`, `samples`, `temperature` and `every` are short for the keys that end
    in them; `profile` chooses one of its profiles."""

    task: str
    """Name of a task (`reasoner tasks list`), or its TOML file. It names the part in metrics and reports."""
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    """As in `[prompt]`."""
    data: DataConfig = Field(default_factory=DataConfig)
    """As in `[data]`, without offline responses."""
    sampling: PartSampling = Field(default_factory=PartSampling)
    """The limits of its prompts and responses."""
    rewards: list[RewardConfig] = Field(default_factory=list)
    """As in `[[rewards]]`."""
    evaluation: PartEvaluation | None = None
    """As in `[evaluation]`."""
    environment: EnvironmentConfig | None = None
    """As in `[environment]`: tools and an environment of this task alone."""


class MixturePart(PartConfig):
    """`[[mixture]]`: one of several tasks that a run trains on. It keeps its own prompt, data, limits, rewards and
    evaluation, and every key of them can be set here; model, method, learner and sampler are the run's. `profile`
    chooses one of its profiles."""

    weight: Annotated[float | Literal["size"], BeforeValidator(_weight)] = 1.0
    """Its share of the problems among the weights of all parts; `size` makes the shares proportional to the numbers of
    training problems."""


class EvaluationConfig(PartEvaluation):
    """`[evaluation]`: evaluation before, during and after training."""

    also: list[PartConfig] = Field(default_factory=list)
    """Further tasks to evaluate on."""
    best: str = ""
    """Evaluation by which `run.keep_best` ranks checkpoints: the name of a task, or `mean` for the mean accuracy of
    all tasks; empty for the accuracy on what is trained on."""


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
    data: DataConfig = Field(default_factory=DataConfig)
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
    mixture: list[MixturePart] = Field(default_factory=list)
    """Several tasks to train on at once; empty for a single task."""
    trackers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Trackers that get the figures of a training in addition to its run folder, with their options:
    `[trackers.tensorboard]`."""

    @property
    def online(self) -> bool:
        """Whether some term reads online groups."""
        return self.gro.reads("online")

    @property
    def quantized(self) -> bool:
        """Whether learner or sampler holds weights of fewer bits than `model.dtype`, so that both differ by more than
        its rounding."""
        return bool((self.lora and self.lora.quantization) or self.sampling.quantization)

    @property
    def has_sampler(self) -> bool:
        """Whether a training samples and scores.

        It does for terms that read online groups, and for its evaluations alone: on other tasks (`evaluation.also`),
        or where there are problems in `data.eval`, rewards, and one that decides.
        """
        return self.online or self.evaluates_itself or (self.evaluation is not None and bool(self.evaluation.also))

    @property
    def evaluates_itself(self) -> bool:
        """Whether there are problems in `data.eval`, rewards, and one that decides, to evaluate on without training on
        online groups."""
        decides = self.evaluation is not None and self.evaluation.correct != ""
        return self.data.eval is not None and bool(self.rewards) and decides

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
