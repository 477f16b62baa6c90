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
from dataclasses import dataclass, replace
from fractions import Fraction
from threading import Lock
from typing import Any

from reasoner.data.problems import Cursor, Stream
from reasoner.records import Problem


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of a problem that was tried."""

    pass_rate: float
    streak: int = 0
    """groups in a row that were all right or all wrong"""
    rest: int = 0
    """turns that it is still passed over for that"""
    passed: int = 0
    """turns in a row that it was passed over"""

    def values(self) -> list[Any]:
        """In the order of the fields."""
        return [self.pass_rate, self.streak, self.rest, self.passed]


class Curriculum:
    """Takes problems from a stream. Its choices depend on the seed and on the pass rates that it observed, on nothing
    else.

    No method but `state` and `restore` takes longer with more problems. `state` may be called while another thread
    takes problems for the next step (`sampling.max_staleness`).
    """

    def __init__(self, stream: Stream[Problem], seed: int, longest_rest: int) -> None:
        self._cursor = Cursor(stream)
        """whose turn it is"""
        self._size = stream.size
        self._seed = seed
        self._longest_rest = longest_rest
        self._records: dict[str, _Record] = {}
        self._changed: dict[str, _Record | None] = {}
        """the records that have changed since the last `mark`, as they were then; None: there was none"""
        self._resting = 0
        self._sum = Fraction()
        """of all pass rates: exact, so that it does not depend on the order of the observations"""
        self._lock = Lock()

    def take(self, count: int, taken: Collection[str] = ()) -> tuple[Problem, ...]:
        """The next `count` problems that the step does not have yet, all of them different; fewer where there are no
        more.

        Args:
            taken: ids of those that the step has.
        """
        known, chosen = set(taken), list[Problem]()
        with self._lock:
            while len(chosen) < count and (problem := self._cursor.next(known)):
                if self._take_turn(problem.id):
                    known.add(problem.id)
                    chosen.append(problem)
        return tuple(chosen)

    def observe(self, pass_rates: Mapping[str, float]) -> None:
        """Learn how groups went: problem id -> share of correct responses."""
        with self._lock:
            for name, rate in pass_rates.items():
                before = self._records.get(name, _Record(rate))
                streak = before.streak + 1 if rate in (0.0, 1.0) else 0
                rest = min(2 ** (streak - 1), self._longest_rest) if streak else 0
                self._set(name, _Record((before.pass_rate + rate) / 2, streak, rest, before.passed))

    @property
    def metrics(self) -> dict[str, float]:
        """`curriculum/<name>`, see `reasoner.monitoring.metrics`."""
        tried = len(self._records)
        if not tried:
            return {}
        return {
            "curriculum/tried": tried / self._size,
            "curriculum/resting": self._resting / self._size,
            "curriculum/pass_rate": float(self._sum) / tried,
        }

    def mark(self) -> None:
        """From now on `state` gives the state of this moment."""
        with self._lock:
            self._cursor.mark()
            self._changed.clear()

    def state(self) -> dict[str, Any]:
        """Everything that its choices depended on at the last `mark`, in JSON values."""
        with self._lock:
            then = ((name, self._changed.get(name, record)) for name, record in self._records.items())
            records = {name: record.values() for name, record in then if record is not None}
            return {"cursor": self._cursor.state(), "problems": records}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._cursor.restore(state["cursor"])
        records: Mapping[str, Sequence[Any]] = state["problems"]
        self._records = {name: _Record(*values) for name, values in records.items()}
        self._changed.clear()
        self._resting = sum(record.rest > 0 for record in self._records.values())
        self._sum = sum((Fraction(record.pass_rate) for record in self._records.values()), Fraction())

    def _set(self, name: str, record: _Record) -> None:
        before = self._records.get(name)
        self._changed.setdefault(name, before)
        self._records[name] = record
        self._resting += (record.rest > 0) - (before is not None and before.rest > 0)
        self._sum += Fraction(record.pass_rate) - (Fraction(before.pass_rate) if before else 0)

    def _take_turn(self, name: str) -> bool:
        """Whether a problem whose turn has come is taken; its record notes the turn."""
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
            self._set(name, replace(record, rest=max(0, record.rest - 1), passed=0 if due else record.passed + 1))
        return due
