"""A teacher that reads other prompts than the policy: with the solution in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reasoner.distributed.sharding import LogprobModel
from reasoner.records import Group


@dataclass(frozen=True, slots=True)
class SolutionReader:
    """Log-probabilities of responses that follow the teacher's own prompts (2601.18734)."""

    policy: LogprobModel
    prompts: Mapping[str, Sequence[int]]
    """problem id -> token ids"""

    def logprobs(self, groups: Sequence[Group], temperature: float) -> Sequence[Sequence[float]]:
        read = [replace(group, prompt_ids=self.prompts[group.problem.id]) for group in groups]
        return self.policy.logprobs(read, temperature)
