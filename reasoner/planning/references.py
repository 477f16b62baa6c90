"""Looks at every reference answer before anything is loaded: one that is not understood gives its problem no signal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from reasoner.config import RewardConfig
from reasoner.errors import UserError
from reasoner.plugins.reward_api import TEXT_ONLY, RewardSource
from reasoner.records import Problem

BUDGET_S = 5.0
"""seconds per source at the start of a run; what is left then is not looked at"""
_NAMED = 3
"""problems that are named"""


@dataclass(frozen=True, slots=True)
class Readings:
    """How a source reads the references of some problems."""

    kinds: Counter[str]
    """number of references by what they are read as"""
    text_only: tuple[str, ...]
    """problems whose reference is compared as text and not understood"""
    broken: tuple[tuple[str, str], ...]
    """problems without a reference to compare with, and why"""
    looked_at: int
    problems: int

    def __str__(self) -> str:
        of_all = "" if self.looked_at == self.problems else f" (the first {self.looked_at} of {self.problems})"
        parts = [f"{count:,} as {kind}" for kind, count in self.kinds.most_common() if kind != TEXT_ONLY]
        if self.text_only:
            parts.append(f"{len(self.text_only):,} as text only ({_join_ids(self.text_only)})")
        if self.broken:
            parts.append(f"{len(self.broken):,} not to be compared with ({_join_ids([id_ for id_, _ in self.broken])})")
        return ", ".join(parts) + of_all


def describe_references(
    rewards: Sequence[RewardConfig],
    sources: Mapping[str, RewardSource],
    problems: Sequence[Problem],
    most_failures: float,
) -> dict[str, str]:
    """How the reward sources that say so read the references: facts of a run's plan.

    Args:
        most_failures: share of calls that may fail in a step (`scoring.max_failure_rate`).

    Raises:
        UserError: a source cannot compare with more references than that: the run would end in its first step.
    """
    facts: dict[str, str] = {}
    for reward in rewards:
        readings = read_references(sources[reward.source], problems, reward.options)
        if readings is None or not problems:
            continue
        if len(readings.broken) > most_failures * readings.looked_at:
            reasons = "\n".join(f"  {why}" for _, why in readings.broken[:_NAMED])
            raise UserError(
                f"reward source {reward.source!r} cannot compare with the reference answers of "
                f"{len(readings.broken):,} of {readings.looked_at:,} problems that were looked at:\n{reasons}\nMap the "
                "field that holds what it understands (columns.answer, which may be a template), or take another "
                "source; scoring.max_failure_rate says how many may fail."
            )
        facts[f"references of {reward.source}"] = str(readings)
    return facts


def read_references(
    source: RewardSource,
    problems: Sequence[Problem],
    options: Mapping[str, Any],
    budget_s: float = BUDGET_S,
) -> Readings | None:
    """How the source reads the problems' references; None: it does not say (`RewardSource.reads`).

    Args:
        options: of the source.
        budget_s: seconds after which the rest is left out.

    Raises:
        UserError: the source's function fails with anything but a ValueError, which means a broken reference.
    """
    if source.reads is None:
        return None
    model = source.options.model_validate(source.check_options(options))
    kinds: Counter[str] = Counter()
    text_only: list[str] = []
    broken: list[tuple[str, str]] = []
    deadline = time.monotonic() + budget_s
    looked_at = 0
    for problem in _until_deadline(deadline, problems):
        looked_at += 1
        try:
            kind, _ = source.reads(problem, model)
        except ValueError as error:
            broken.append((problem.id, str(error)))
            continue
        except Exception as error:
            raise UserError(
                f"reward source {source.name!r}: reading the reference of problem {problem.id} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        kinds[kind] += 1
        if kind == TEXT_ONLY:
            text_only.append(problem.id)
    return Readings(kinds, tuple(text_only), tuple(broken), looked_at, len(problems))


def _until_deadline(deadline: float, problems: Iterable[Problem]) -> Iterable[Problem]:
    for problem in problems:
        if time.monotonic() > deadline:
            return
        yield problem


def _join_ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(islice(ids, _NAMED)) + more
