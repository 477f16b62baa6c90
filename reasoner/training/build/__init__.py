"""Opens what a command works with, from the configuration.

run_base.py   data, run folder, view and ranks, which every run has
evaluator.py  the engine, its sampler and the reward sources
models.py     the models beside the policy: reference, teacher, critic
trainer.py    all of it, for training
"""

from reasoner.training.build.run_base import watching
from reasoner.training.build.trainer import open_trainer

__all__ = ["open_trainer", "watching"]
