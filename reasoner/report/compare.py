"""What differs between runs: their settings, and their evaluations problem by problem."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasoner.evaluation.metrics import Difference, Estimate, Evaluation, compare, criteria_difference, is_loss
from reasoner.report.words import corrected
from reasoner.runs.folder import Evaluated
from reasoner.runs.reader import SavedRun

Tone = Literal["better", "worse", "changed", "neutral"]
"""`changed`: beyond noise, and neither better nor worse; `neutral`: within noise"""
_ENTRY = re.compile(r"(?:gro\.terms|rewards|mixture|evaluation\.also)\.[^.]+\.")


_NAMED = {"rewards": "source", "mixture": "task", "also": "task"}
"""list of sections -> the key that names an entry"""


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure of two evaluations of the same problems."""

    name: str
    before: Estimate
    after: Estimate
    difference: Difference
    rose: tuple[str, ...]
    """ids of the problems whose value is higher after"""
    fell: tuple[str, ...]

    @property
    def tone(self) -> Tone:
        """A length is neither better nor worse, and a loss the better the lower it is."""
        if self.difference.within_noise:
            return "neutral"
        if self.difference.unit == "tokens":
            return "changed"
        return "better" if (self.difference.change > 0) != is_loss(self.name) else "worse"


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """Two evaluations, paired by problem."""

    title: str
    before: str
    """what the first one is: `before training`, or the name of a run"""
    after: str
    rows: tuple[FigureRow, ...]
    note: str = ""
    """why the two may not be comparable; empty: nothing against it"""

    @property
    def corrected(self) -> str:
        """Which p-values are corrected for several comparisons, in a sentence; empty: none."""
        return corrected(row.difference for row in self.rows)


def before_and_after(run: SavedRun, until: int | None = None) -> EvaluationComparison | None:
    """The first and the last evaluation of a run; None: there are no two.

    Args:
        until: leave out those after later steps; None: none of them.
    """
    evaluations = [evaluated for evaluated in run.evaluations if until is None or evaluated.step <= until]
    if len(evaluations) < 2:
        return None
    first, last = evaluations[0], evaluations[-1]
    rows = _rows(first.evaluation, last.evaluation)
    return EvaluationComparison(run.name, when(run, first), when(run, last), rows)


def between(base: SavedRun, other: SavedRun) -> EvaluationComparison | None:
    """The last evaluations of two runs; None: one of them has none."""
    if not base.evaluations or not other.evaluations:
        return None
    rows = _rows(base.evaluations[-1].evaluation, other.evaluations[-1].evaluation)
    note = "" if rows else "They have no problem in common: nothing can be paired."
    differing = [
        name
        for name in ("data.eval", "data.holdout", "prompt", "evaluation", "mixture")
        if _section(base.config, name) != _section(other.config, name)
    ]
    if rows and differing:
        note = f"Their settings of {' and '.join(differing)} differ: the difference may not be the training's alone."
    evaluations = [run.evaluations[-1].evaluation for run in (base, other)]
    note = " ".join(filter(None, (criteria_difference(*evaluations), note)))
    return EvaluationComparison(f"{other.name} against {base.name}", base.name, other.name, rows, note)


def when(run: SavedRun, evaluated: Evaluated) -> str:
    """`before training`, `after step 12`."""
    if not run.trains:
        return "without training"
    return "before training" if evaluated.step == 0 else f"after step {evaluated.step}"


def settings(runs: Sequence[SavedRun]) -> list[tuple[str, tuple[str | None, ...]]]:
    """The keys whose values differ between runs, with each run's value; None: not set. Without the output folder.

    A reward source, or a term of the objective, that not every run has is one row. Where every run has a single term,
    the terms are compared with each other whatever they are called: `gro.terms.*`.
    """
    flat = [dict(_flat("", run.config)) for run in runs]
    names = [list(run.config.get("gro", {}).get("terms", {})) for run in runs]
    if all(len(terms) == 1 for terms in names):
        flat = [
            {key.replace(f"gro.terms.{name}.", "gro.terms.*."): value for key, value in config.items()}
            for config, (name,) in zip(flat, names, strict=True)
        ]
    keys = dict.fromkeys(key for config in flat for key in config if key != "run.output")
    rows: dict[str, tuple[str | None, ...]] = {}
    for key in keys:
        entry = _ENTRY.match(key)
        if entry and not all(any(other.startswith(entry[0]) for other in config) for config in flat):
            rows[entry[0].rstrip(".")] = tuple(_entry(config, entry[0]) for config in flat)
        else:
            rows[key] = tuple(config.get(key) for config in flat)
    return [(key, values) for key, values in rows.items() if len(set(values)) > 1]


def _entry(flat: Mapping[str, str], prefix: str) -> str | None:
    """A reward source or a term in a few words."""
    if not any(key.startswith(prefix) for key in flat):
        return None
    words = [f"{name} {value}" for name in ("preset", "source", "weight") if (value := flat.get(prefix + name))]
    return ", ".join(words) or "set"


def _rows(before: Evaluation, after: Evaluation) -> tuple[FigureRow, ...]:
    rows = []
    for difference in compare(before, after):
        old, new = before.find(difference.name), after.find(difference.name)
        assert old is not None
        assert new is not None
        changes = {
            problem: new.by_problem[problem] - value
            for problem, value in old.by_problem.items()
            if problem in new.by_problem
        }
        rose = tuple(problem for problem, change in changes.items() if change > 0)
        fell = tuple(problem for problem, change in changes.items() if change < 0)
        rows.append(FigureRow(difference.name, old, new, difference, rose, fell))
    return tuple(rows)


def _section(config: Mapping[str, Any], path: str) -> Any:
    section: Any = config
    for name in path.split("."):
        section = section.get(name, {})
    return section


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """`gro.terms.grpo.weight`, `1.0`; entries of lists by their name: `rewards.math.weight`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
    elif isinstance(value, list) and value and (key := _NAMED.get(prefix.rpartition(".")[2])):
        for item in value:
            yield from _flat(f"{prefix}.{item[key]}", {k: v for k, v in item.items() if k != key})
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
