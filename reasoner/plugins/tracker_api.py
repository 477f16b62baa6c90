"""What authors of trackers use: a tracker follows a training run and shows its figures somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker learns when a run starts, or goes on after a resume."""

    folder: Path
    """of the run; its name is the run's, also after a resume"""
    task: str
    """name of the task"""
    settings: Mapping[str, Any]
    """the complete configuration, nested, without secrets"""
    first_step: int
    """1, or the step that a resumed run begins with: those from there on are told again"""


class Tracker(Protocol):
    """Follows one run. One that raises is reported once and told nothing more; it costs the run nothing."""

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
    """one line that says where figures go"""
    options: type[BaseModel]
    """what `[trackers.NAME]` may hold"""
    preflight: Callable[[Any], str]
    """takes the options in the main process before anything is loaded and returns one line for the run's plan; raises
    `UserError` or `MissingDependencyError` with what to install or set"""
    open: Callable[[TrackedRun, Any], Tracker]
    """takes the run and the options; called once the run folder is there"""
