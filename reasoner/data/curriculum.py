"""Which training problems a step takes, from how past groups on them went (`[curriculum]`, off by default).

Every epoch goes through all problems in the stream's order. A problem whose turn comes is taken or passed over:

    never tried               taken
    last group was mixed      taken with probability 4 p (1 - p), p its pass rate: always at one half
    all right, or all wrong   it rests: passed over for 1 turn, after the next such group in a row for 2, then 4, ...

and nobody is passed over more than `longest_rest` turns in a row, so that every problem is tried again.

A group that is all right or all wrong has no differences to learn from, and the variance of the reward, p (1 - p),
bounds what a problem teaches (2502.12272, 2504.03380). That a problem without differences is likely to have none the
next time, the more so the longer it has had none, is measured in 2506.02177, where such problems are skipped before
they are sampled; `sampling.refills` (2503.14476) drops them after. p is the mean of the last group's share of correct
responses and the p before: the policy moves between two turns of a problem.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Any

from reasoner.data.problems import Cursor, Stream
from reasoner.records import Problem


@dataclass(slots=True)
class _Record:
    """What is known of a problem that was tried."""

    pass_rate: float
    streak: int = 0
    """groups in a row that were all right or all wrong"""
    rest: int = 0
    """turns that it is still passed over for that"""
    passed: int = 0
    """turns in a row that it was passed over"""


class Curriculum:
    """Takes problems from a stream. Its choices depend on the seed and on what it was told, on nothing else."""

    def __init__(self, stream: Stream[Problem], seed: int, longest_rest: int) -> None:
        self._cursor = Cursor(stream)
        """whose turn it is"""
        self._size = stream.size
        self._seed = seed
        self._longest_rest = longest_rest
        self._records: dict[str, _Record] = {}

    def take(self, count: int, taken: Collection[str] = ()) -> tuple[Problem, ...]:
        """The next `count` problems that the step does not have yet, all of them different; fewer where there are no
        more.

        Args:
            taken: ids of those that the step has.
        """
        known, found = set(taken), list[Problem]()
        while len(found) < count and (problem := self._cursor.next(known)):
            if self._is_due(problem.id):
                known.add(problem.id)
                found.append(problem)
        return tuple(found)

    def observe(self, pass_rates: Mapping[str, float]) -> None:
        """Learn how groups went: problem id -> share of correct responses."""
        for name, rate in pass_rates.items():
            record = self._records.setdefault(name, _Record(rate))
            record.pass_rate = (record.pass_rate + rate) / 2
            record.streak = record.streak + 1 if rate in (0.0, 1.0) else 0
            record.rest = min(2 ** (record.streak - 1), self._longest_rest) if record.streak else 0

    @property
    def metrics(self) -> dict[str, float]:
        """`curriculum/<name>`, see `reasoner.monitoring.metrics`."""
        records, problems = self._records.values(), self._size
        if not records:
            return {}
        return {
            "curriculum/tried": len(records) / problems,
            "curriculum/resting": sum(record.rest > 0 for record in records) / problems,
            "curriculum/pass_rate": fmean(record.pass_rate for record in records),
        }

    def state(self) -> dict[str, Any]:
        """Everything that its choices depend on, in JSON values."""
        records = {name: list(astuple(record)) for name, record in self._records.items()}
        return {"cursor": self._cursor.state(), "problems": records}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._cursor.restore(state["cursor"])
        records: Mapping[str, Sequence[Any]] = state["problems"]
        self._records = {name: _Record(*values) for name, values in records.items()}

    def _is_due(self, name: str) -> bool:
        """Whether a problem whose turn has come is taken."""
        record = self._records.get(name)
        if record is None or record.passed >= self._longest_rest:
            due = True
        elif record.streak:
            due = record.rest == 0
        else:
            seed = f"{self._seed}:{self._cursor.epoch}:{name}"  # text: the same everywhere
            chance = random.Random(seed).random()
            due = chance < 4.0 * record.pass_rate * (1.0 - record.pass_rate)
        if record is not None:
            record.rest = max(0, record.rest - 1)
            record.passed = 0 if due else record.passed + 1
        return due
