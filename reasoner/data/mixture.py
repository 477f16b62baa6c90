"""Which task the next problem of a step comes from, and which of its problems it is (`[[mixture]]`).

Every task has its own order of problems, and its own epochs. The tasks take turns: after k problems a task with share w
has had k w of them, but for less than one (Tijdeman, The chairman assignment problem, 1980):

    due_i = k w_i - (what i has had)        n tasks
    turn  = among those with due_i >= 1 / (2n - 2), the one with the smallest (1 - 1 / (2n - 2) - due_i) / w_i

so that the shares are exact wherever they can be: of weights 2 and 1 in every three problems, and with weights
proportional to the sizes in every epoch. A single task is a mixture of one, whose turn it always is.

With `curriculum.parts = "pass-rate"` a task's weight is multiplied by what its last groups had to teach, the mean of
4 p (1 - p) over their pass rates p (2502.12272), from a tenth to 1; a task that was not tried yet counts 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any, Protocol

from reasoner.config import Config
from reasoner.records import Problem

WHOLE = 2**40
"""all shares together: whole numbers, so that a resumed run counts on exactly"""
LEAST = 0.1
"""of what a task's groups have to teach: one that has nothing to teach now is still tried"""
MEMORY = 0.9
"""what the mean keeps of itself at each group: it looks back over some ten"""


class Chooser(Protocol):
    """Chooses among the problems of one task: `Cursor`, or `Curriculum`."""

    def take(self, count: int, taken: Collection[str] = ()) -> tuple[Problem, ...]:
        """The next problems that the step does not have yet."""
        ...

    def observe(self, pass_rates: Mapping[str, float]) -> None:
        """Learn how groups went: problem id -> share of correct responses."""
        ...

    @property
    def metrics(self) -> dict[str, float]:
        """Its figures of a step."""
        ...

    def mark(self) -> None:
        """From now on `state` gives the state of this moment."""
        ...

    def state(self) -> dict[str, Any]:
        """The state at the last `mark`, in JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        ...


def weights_of(config: Config, sizes: Mapping[str, int]) -> dict[str, float]:
    """The weight of every task that is trained on.

    Args:
        sizes: training problems by task.
    """
    if not config.mixture:
        return dict.fromkeys(config.parts, 1.0)
    return {part.task: float(sizes[part.task]) if part.weight == "size" else part.weight for part in config.mixture}


def shares_of(weights: Mapping[str, float]) -> dict[str, int]:
    """The weights as shares of `WHOLE`, rounded so that they add up to it.

    >>> {name: round(share / WHOLE, 6) for name, share in shares_of({"math": 2.0, "code": 1.0}).items()}
    {'math': 0.666667, 'code': 0.333333}
    """
    total = sum(map(Fraction, weights.values()))
    exact = {name: Fraction(weight) / total * WHOLE for name, weight in weights.items()}
    shares = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_rest[: WHOLE - sum(shares.values())]:
        shares[name] += 1
    return shares


class Mixture:
    """Takes problems of several tasks in turn."""

    def __init__(
        self, choosers: Mapping[str, Chooser], weights: Mapping[str, float], *, adaptive: bool = False
    ) -> None:
        """
        Args:
            choosers: by task.
            weights: by task, above 0.
            adaptive: weights follow what the last groups had to teach.
        """
        self._choosers = dict(choosers)
        self._weights = dict(weights)
        self._adaptive = adaptive
        self._teaches = dict.fromkeys(choosers, 1.0)
        """mean of 4 p (1 - p) over the last groups of each task"""
        self._due = dict.fromkeys(choosers, 0)
        """what each task has still to get, in parts of `WHOLE`; below 0 it is ahead"""
        self.mark()

    def take(self, count: int, taken: Collection[Problem] = ()) -> tuple[Problem, ...]:
        """The next `count` problems that the step does not have yet, all of them different; fewer where there are no
        more. Where a task has no more, its turn goes to the others, and it gets that back at later steps."""
        shares = shares_of(self._current_weights())
        known: dict[str, set[str]] = {name: set() for name in self._choosers}
        for problem in taken:
            known[self._task_of(problem)].add(problem.id)
        problems: list[Problem] = []
        while len(problems) < count and (chosen := self._next(shares, known)):
            name, problem = chosen
            known[name].add(problem.id)
            problems.append(problem)
        return tuple(problems)

    def observe(self, pass_rates: Mapping[str, Mapping[str, float]]) -> None:
        """Learn how groups went: task -> problem id -> share of correct responses."""
        for name, rates in pass_rates.items():
            self._choosers[name].observe(rates)
            for rate in rates.values():
                self._teaches[name] = MEMORY * self._teaches[name] + (1 - MEMORY) * 4 * rate * (1 - rate)

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the tasks' curricula, by the names of the metrics table."""
        if len(self._choosers) == 1:
            return next(iter(self._choosers.values())).metrics
        return {
            f"task/{name}/{key}": value
            for name, chooser in self._choosers.items()
            for key, value in chooser.metrics.items()
        }

    def mark(self) -> None:
        """From now on `state` gives the state of this moment."""
        for chooser in self._choosers.values():
            chooser.mark()
        self._marked = {"due": dict(self._due), "teaches": dict(self._teaches)}

    def state(self) -> dict[str, Any]:
        """Everything that its choices depended on at the last `mark`, in JSON values."""
        return {**self._marked, "parts": {name: chooser.state() for name, chooser in self._choosers.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        for name, chooser in self._choosers.items():
            chooser.restore(state["parts"][name])
        self._due, self._teaches = dict(state["due"]), dict(state["teaches"])
        self.mark()

    def _current_weights(self) -> dict[str, float]:
        if not self._adaptive:
            return self._weights
        return {name: weight * max(LEAST, self._teaches[name]) for name, weight in self._weights.items()}

    def _next(self, shares: Mapping[str, int], known: Mapping[str, Collection[str]]) -> tuple[str, Problem] | None:
        """The next problem and its task; None: the step has all problems."""
        due = {name: self._due[name] + share for name, share in shares.items()}
        for name in _order_by_urgency(due, shares):
            if problems := self._choosers[name].take(1, known[name]):
                self._due = due | {name: due[name] - WHOLE}
                return name, problems[0]
        return None

    def _task_of(self, problem: Problem) -> str:
        return problem.part if len(self._choosers) > 1 else next(iter(self._choosers))


def _order_by_urgency(due: Mapping[str, int], shares: Mapping[str, int]) -> Iterator[str]:
    """The tasks, the one whose turn it is first."""
    slack = Fraction(WHOLE, max(2 * len(due) - 2, 1))

    def urgency(name: str) -> tuple[bool, Fraction]:
        return due[name] < slack, (WHOLE - slack - due[name]) / max(shares[name], 1)

    yield from sorted(due, key=urgency)
