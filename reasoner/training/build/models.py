"""Loads the models beside the policy: the reference, the teacher and the critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reasoner.distributed.sharding import LogprobModel, ShardedPolicy
from reasoner.learning.adapter import Adapted, WithoutAdapter
from reasoner.learning.critic import TorchCritic
from reasoner.learning.model.backbone import Backbone
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.learning.sequence_parallel import SequenceRanks
from reasoner.records import Group
from reasoner.sampling.server.compatibility import ServerRequirements
from reasoner.sampling.server.policy import ServedPolicy
from reasoner.training.build.run_base import RunBase


def match_rotation(base: RunBase, model: Backbone) -> None:
    """Where vLLM samples, it decides how positions are rotated."""
    if base.decisions.engine in ("vllm", "servers"):
        model.rotate_as_vllm(base.decisions.longest_context)


def build_reference(base: RunBase, learner: Adapted) -> LogprobModel | None:
    """The initial model, frozen: the learner without its adapter, where it has one; None: no term reads it."""
    config = base.config
    if not config.needs_initial:
        return None
    if config.lora is not None:
        return WithoutAdapter(learner)
    policy = _frozen_policy(base, base.folder, config.model.dtype)
    match_rotation(base, policy)
    return policy if base.ranks.count == 1 else ShardedPolicy(policy, base.ranks)


def build_teacher(base: RunBase, initial: LogprobModel | None, stack: ExitStack) -> LogprobModel | None:
    """The model of terms whose credit is a teacher's: another one, here or on servers, or the initial one.

    Args:
        initial: the frozen initial model, where the run has one.
        stack: closes the connections to servers.

    Raises:
        UserError: a server cannot be used.
    """
    config = base.config
    if not config.gro.needs_teacher:
        return None
    teacher = initial
    if config.teacher.servers:
        longest = max(map(len, base.teacher_prompts.values()), default=config.sampling.max_prompt_tokens)
        wanted = ServerRequirements.teacher(config, base.teacher_folder, longest + config.sampling.max_tokens + 1)
        served = stack.enter_context(ServedPolicy(config.teacher.servers, wanted, base.ranks))
        base.view.message(f"teacher: {served.description}")
        teacher = served
    elif config.teacher.path is not None:
        policy = _frozen_policy(base, base.teacher_folder, config.teacher.dtype or config.model.dtype)
        teacher = policy if base.ranks.count == 1 else ShardedPolicy(policy, base.ranks)
    assert teacher is not None
    return SolutionReader(teacher, base.teacher_prompts) if base.teacher_prompts else teacher


@dataclass(frozen=True, slots=True)
class SolutionReader:
    """Log-probabilities of responses that follow the teacher's own prompts (2601.18734)."""

    policy: LogprobModel
    prompts: Mapping[str, Sequence[int]]
    """problem id -> token ids"""

    def logprobs(self, groups: Sequence[Group], temperature: float) -> Sequence[Sequence[float]]:
        read = [replace(group, prompt_ids=self.prompts[group.problem.id]) for group in groups]
        return self.policy.logprobs(read, temperature)


def _frozen_policy(base: RunBase, folder: Path, dtype: Literal["float32", "bfloat16"]) -> TorchPolicy:
    """A model that gives log-probabilities and is not trained."""
    config = base.config
    options = replace(
        ModelOptions.of(
            config.learning, base.decisions.device, dtype, trust_remote_code=config.model.trust_remote_code
        ),
        gradient_checkpointing=False,
        required=False,
        autocast=base.decisions.learner == "torch",
        sequence=SequenceRanks.of(base.ranks),
    )
    with base.ranks.in_turn():
        policy = TorchPolicy(folder, options)
        policy.freeze()
        return policy


def build_critic(base: RunBase, checkpoint: Path | None) -> TorchCritic | None:
    """The critic, or that of a checkpoint; None: no term has one."""
    config = base.config
    if not config.gro.needs_critic:
        return None
    with base.ranks.in_turn():
        critic = TorchCritic(
            base.critic_folder,
            device=base.decisions.device,
            dtype=config.model.dtype,
            config=config.learning,
            learning_rate=config.critic.learning_rate,
            total_steps=config.optimizer_steps,
            ranks=base.ranks,
            trust_remote_code=config.model.trust_remote_code,
            checkpoint=checkpoint,
        )
    match_rotation(base, critic.backbone)
    return critic
