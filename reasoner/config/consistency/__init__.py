"""What must hold between the sections of a configuration. Checked when it is loaded, before any model is touched.

tasks.py       what a task asks, of which data, and how it is judged
sampling.py    what is sampled, by how many, and ahead of what
learning.py    what the learner computes, with which weights, on how many ranks
objective.py   what the terms of GRO read and need
mixtures.py    several tasks in one run
"""

from __future__ import annotations

from reasoner.config.consistency.learning import (
    check_engine,
    check_mlp_tile,
    check_offload,
    check_optimizer,
    check_quantization,
    check_sequence_parallel,
    check_updates,
)
from reasoner.config.consistency.mixtures import check_parts
from reasoner.config.consistency.objective import (
    check_credit_by_turn,
    check_critic,
    check_sources,
    check_teacher,
    check_weights,
)
from reasoner.config.consistency.sampling import (
    check_groups,
    check_refills,
    check_routing_replay,
    check_staleness,
    check_tensor_parallel,
)
from reasoner.config.consistency.tasks import (
    check_budgets,
    check_curriculum,
    check_data,
    check_environment,
    check_evaluation,
    check_prompt,
    check_rewards,
    mistake_of_conditions,
)

__all__ = ["CHECKS", "check_parts", "mistake_of_conditions"]

CHECKS = (
    check_rewards,
    check_sources,
    check_evaluation,
    check_groups,
    check_refills,
    check_staleness,
    check_tensor_parallel,
    check_sequence_parallel,
    check_mlp_tile,
    check_offload,
    check_routing_replay,
    check_optimizer,
    check_quantization,
    check_budgets,
    check_curriculum,
    check_weights,
    check_credit_by_turn,
    check_critic,
    check_engine,
    check_updates,
    check_teacher,
    check_data,
    check_prompt,
    check_environment,
)
"""what must hold between sections, in the order in which it is looked at"""
