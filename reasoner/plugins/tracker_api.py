"""What authors of trackers use: a tracker follows a training run and shows its figures somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told when a run starts or is resumed."""

    folder: Path
    """The run folder; its name is that of the run, also after a resume."""
    task: str
    """The name of the task."""
    settings: Mapping[str, Any]
    """The complete configuration, nested, without secrets."""
    first_step: int
    """The first step of this start: 1, or the step at which a resumed run begins. The tracker is told of all steps from
    there on, some of them again."""


class Tracker(Protocol):
    """Follows one run. A tracker that raises is reported once and called no more; the run continues."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step was committed; `metrics` is its line of metrics.jsonl (docs/metrics.md)."""
        ...

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """An evaluation was committed, made after `step` steps: `evaluation/avg@1`, `evaluation/reward`, ..."""
        ...

    def finish(self, state: str) -> None:
        """The run ended: `finished`, `stopped` (out of time), `interrupted` or `failed`."""
        ...


@dataclass(frozen=True, slots=True)
class TrackerKind:
    """A tracker that `[trackers.NAME]` can name."""

    title: str
    """One line that says where the metrics go."""
    options: type[BaseModel]
    """The options that `[trackers.NAME]` may hold."""
    preflight: Callable[[Any], str]
    """Called with the options in the main process before anything is loaded; returns one line for the run's plan, or
    raises `UserError` or `MissingDependencyError` with what to install or set."""
    open: Callable[[TrackedRun, Any], Tracker]
    """Called with the run and the options when the run folder exists."""
