"""The configuration of a run as pydantic models: every key with its type, range, unit and one sentence.

    section.py       the base of every section
    data.py sampling.py rewards.py objective.py learning.py run.py
                     the sections by subject; the docstring under a field is its documentation
    sections.py      all of them together, and what follows from them
    consistency.py   what must hold between sections
    config.py        `Config`: the sections, checked

No file is read here: `reasoner.loading` lays the layers over each other and fills these models.
"""

from reasoner.config.config import Config
from reasoner.config.consistency import mistake_of_conditions
from reasoner.config.data import DataConfig, OfflineConfig, PromptConfig, SourceConfig
from reasoner.config.learning import LearningConfig, LoraConfig, PolicyConfig
from reasoner.config.objective import TermConfig
from reasoner.config.rewards import RewardConfig, ScoringConfig
from reasoner.config.run import RunConfig
from reasoner.config.sampling import EvaluationConfig, SamplingConfig
from reasoner.config.section import mistake_of_temperature

__all__ = [
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "LearningConfig",
    "LoraConfig",
    "OfflineConfig",
    "PolicyConfig",
    "PromptConfig",
    "RewardConfig",
    "RunConfig",
    "SamplingConfig",
    "ScoringConfig",
    "SourceConfig",
    "TermConfig",
    "mistake_of_conditions",
    "mistake_of_temperature",
]
