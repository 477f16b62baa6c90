"""Tries whether the reward sources can judge the responses to the problems, before a run spends anything on them.

A problem that a source judges otherwise than its data mean gives every response the wrong reward, and says nothing.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from reasoner.errors import UserError
from reasoner.plugins.reward_api import RewardSource
from reasoner.records import Problem
from reasoner.scoring.base import CaseProgress

SAMPLE = 8
"""problems that are tried when a run starts"""
BUDGET_S = 20.0
"""seconds after which no further one is begun then"""
_NAMED = 3
"""problems that a message names"""


@dataclass(frozen=True, slots=True)
class ProblemChecks:
    """What became of trying some problems."""

    kinds: Counter[str]
    """Number of problems by the verdict of the source."""
    refused: tuple[tuple[str, str], ...]
    """problems that it cannot judge, and why"""
    problems: int
    """that there are"""

    def __str__(self) -> str:
        tried = self.kinds.total() + len(self.refused)
        parts = [f"{count} {kind}" for kind, count in self.kinds.most_common()]
        parts += [f"{len(self.refused)} that cannot be judged"] if self.refused else []
        of_all = f"{tried} of {self.problems} problems tried: " if tried < self.problems else ""
        return of_all + ", ".join(parts)


def check_problems(
    source: RewardSource,
    options: Mapping[str, Any],
    problems: Sequence[Problem],
    *,
    budget_s: float | None = None,
    progress: CaseProgress = lambda done: None,
) -> ProblemChecks | None:
    """Try problems, as many at a time as there are cores; None: the source has no such check.

    Args:
        budget_s: seconds after which no further one is begun; None: all are tried.

    Raises:
        UserError: the source's function fails with anything but ValueError.
    """
    if source.check_problem is None or not problems:
        return None
    check, model = source.check_problem, source.options.model_validate(source.check_options(options))
    deadline = None if budget_s is None else time.monotonic() + budget_s

    def tried(problem: Problem) -> tuple[str, str] | None:
        """What the source says, and why it refuses; None: there was no time."""
        if deadline is not None and time.monotonic() > deadline:
            return None
        try:
            return check(problem, model), ""
        except ValueError as error:
            return "", str(error)
        except Exception as error:
            raise UserError(
                f"reward source {source.name!r}: trying problem {problem.id!r} failed: {type(error).__name__}: {error}"
            ) from error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        answers = []
        for done, (problem, result) in enumerate(zip(problems, pool.map(tried, problems), strict=True), 1):
            answers += [(problem.id, *result)] if result is not None else []
            progress(done)
    refused = tuple((id_, why) for id_, _, why in answers if why)
    return ProblemChecks(Counter(kind for _, kind, why in answers if not why), refused, len(problems))


def check_sample(source: RewardSource, options: Mapping[str, Any], problems: Sequence[Problem], seed: int) -> str:
    """Try a few problems at the start of a run; in words what became of them, empty for a source without such a check.

    Raises:
        UserError: the source cannot judge one of them as it should.
    """
    sample = random.Random(seed).sample(problems, min(SAMPLE, len(problems)))
    checks = check_problems(source, options, sample, budget_s=BUDGET_S)
    if checks is None:
        return ""
    if checks.refused:
        reasons = "\n".join(f"  {why}" for _, why in checks.refused[:_NAMED])
        raise UserError(
            f"reward source {source.name!r} cannot judge {len(checks.refused)} of {len(sample)} problems that were "
            f"tried:\n{reasons}\nFind all of them with `reasoner rewards test {source.name} --task TASK`; correct "
            f"them, leave them out of the data, or change the source's options."
        )
    return str(ProblemChecks(checks.kinds, (), len(problems)))
