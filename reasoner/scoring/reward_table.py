"""The reward sources of one task or of several, as one list: a call of a source goes by its index there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasoner.config import RewardConfig, mistake_of_conditions
from reasoner.errors import ConfigError, ScoringError
from reasoner.records import Problem


@dataclass(frozen=True, slots=True)
class RewardTable:
    """All rewards of a scoring service."""

    rewards: tuple[RewardConfig, ...]
    """of all tasks, one task after the other"""
    names: tuple[str, ...]
    """what each is called in messages and statistics: its source, with several tasks `math of math-gsm8k`"""
    tasks: Mapping[str, range]
    """task -> the indices of its rewards"""
    conditions: tuple[int | None, ...]
    """index of the reward that each is `when`; None: it is always called"""

    @classmethod
    def of(cls, by_task: Mapping[str, Sequence[RewardConfig]]) -> RewardTable:
        """
        Raises:
            ConfigError: a condition (`when`) is none of its task's earlier sources.
        """
        rewards: list[RewardConfig] = []
        names: list[str] = []
        tasks: dict[str, range] = {}
        conditions: list[int | None] = []
        for task, own in by_task.items():
            if wrong := mistake_of_conditions(own):
                raise ConfigError(wrong)
            first, sources = len(rewards), [reward.source for reward in own]
            tasks[task] = range(first, first + len(own))
            rewards += own
            names += [f"{source} of {task}" if len(by_task) > 1 else source for source in sources]
            conditions += [None if reward.when is None else first + sources.index(reward.when) for reward in own]
        return cls(tuple(rewards), tuple(names), tasks, tuple(conditions))

    def of_problem(self, problem: Problem) -> range:
        """The indices of the rewards that score the responses to a problem.

        Raises:
            ScoringError: there are several tasks, and it is of none of them.
        """
        if len(self.tasks) == 1:
            return next(iter(self.tasks.values()))
        if problem.part not in self.tasks:
            raise ScoringError(
                f"problem {problem.id} is of task {problem.part!r}, and the scoring service has the rewards of "
                f"{', '.join(self.tasks)}"
            )
        return self.tasks[problem.part]
