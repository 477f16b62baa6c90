"""The configuration of a run as pydantic models: every key with its type, range, unit and one sentence.

Input: tables of values (`reasoner.loading` reads them from files). Output: a `Config` that holds together.

    section.py                  the base of every section
    data.py                     problems, offline responses, prompts, curriculum
    sampling.py                 sampling, weight sync, evaluation
    environment.py              tools and the environment
    rewards.py                  reward sources and their workers
    objective.py                the terms of the objective
    learning.py                 models, optimiser, adapter, critic
    run.py                      length, folder and checkpoints of the run
    sections.py                 all sections together, and what follows from them
    consistency/                what must hold between sections
    config.py                   `Config`: the sections, checked against each other
    decisions.py                what a configuration leaves open, as it is decided for one machine
"""

from reasoner.config.config import Config
from reasoner.config.consistency import mistake_of_conditions
from reasoner.config.data import (
    DataConfig,
    DuplicatePolicy,
    MissingPolicy,
    OfflineConfig,
    PromptConfig,
    RowPolicy,
    SourceConfig,
)
from reasoner.config.environment import EnvironmentConfig
from reasoner.config.learning import LearningConfig, LoraConfig, PolicyConfig
from reasoner.config.objective import TermConfig
from reasoner.config.rewards import RewardConfig, ScoringConfig
from reasoner.config.run import RunConfig
from reasoner.config.sampling import PartSampling, SamplingConfig
from reasoner.config.section import mistake_of_temperature
from reasoner.config.sections import EvaluationConfig

__all__ = [
    "Config",
    "DataConfig",
    "DuplicatePolicy",
    "EnvironmentConfig",
    "EvaluationConfig",
    "LearningConfig",
    "LoraConfig",
    "MissingPolicy",
    "OfflineConfig",
    "PartSampling",
    "PolicyConfig",
    "PromptConfig",
    "RewardConfig",
    "RowPolicy",
    "RunConfig",
    "SamplingConfig",
    "ScoringConfig",
    "SourceConfig",
    "TermConfig",
    "mistake_of_conditions",
    "mistake_of_temperature",
]
