"""The hooks of `reasoner`: the whole contract between the pipeline and its plugins.

A plugin is a module with functions of these names, marked with `hookimpl`. It is found as an installed distribution
with an entry point in the group `reasoner`, or as a single file (`--plugin my_verifier.py`, `plugins = [...]`). The
built-in reward sources, tools, environments and tasks use the same hooks. Every process that needs plugins discovers
them itself.

`register_*` hooks are called to look things up; their results are joined. The others tell what happens in a run, in the
main process (with several ranks: that of the first), in the order in which plugins were registered. They only watch:
what they return is dropped, and one that raises is reported and costs the run nothing. A function may take any of a
hook's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from reasoner.gro.spec.registry import Algorithms
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.reward_api import RewardSource
from reasoner.plugins.tool_api import Tool
from reasoner.plugins.tracker_api import TrackerKind
from reasoner.records import Group, ScoredGroup

if TYPE_CHECKING:
    from reasoner.evaluation.metrics import Evaluation

PROJECT = "reasoner"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Generator = Callable[..., Iterator[Mapping[str, Any]]]
"""`(count, seed, **options) -> rows`: rows are JSON-like mappings with at least the columns that the task's template
names."""


@dataclass(frozen=True, slots=True)
class TaskFamily:
    """Tasks of one kind that are made when they are asked for: `gym/chain_sum` is the member `chain_sum` of `gym`."""

    title: str
    """one line that says what its members train"""
    names: Callable[[], Sequence[str]]
    """its members; each begins with a letter or digit and holds letters, digits, `_`, `.` and `-`"""
    toml: Callable[[str], str]
    """member -> the text of its task file"""


@hookspec
def register_rewards() -> Iterable[RewardSource]:
    """Reward sources, once per process at start-up. Results are joined; a name registered twice is an error."""
    return ()


@hookspec
def register_tools() -> Iterable[Tool]:
    """Tools that the policy can call (docs/environments.md), once per process at start-up. Results are joined; a name
    registered twice is an error."""
    return ()


@hookspec
def register_environments() -> Iterable[EnvironmentKind]:
    """Environments (docs/environments.md), once per process at start-up. Results are joined; a name registered twice is
    an error."""
    return ()


@hookspec
def register_tasks() -> Iterable[Path]:
    """Task files (TOML), once per command. Results are joined; the file's stem is the task's name and must be
    unique."""
    return ()


@hookspec
def register_task_families() -> Mapping[str, TaskFamily]:
    """Families of tasks by name, once per command. Results are joined; a name holds lower-case letters, digits and `_`
    only, and one registered twice is an error."""
    return {}


@hookspec
def register_generators() -> Mapping[str, Generator]:
    """Generators of problems by name, once per command. Results are joined; a name registered twice is an error."""
    return {}


@hookspec
def register_algorithms() -> Algorithms:
    """Methods, credits and links, once per command. Results are joined; a name registered twice is an error."""
    return Algorithms()


@hookspec
def register_trackers() -> Mapping[str, TrackerKind]:
    """Trackers by name (docs/trackers.md), once per command. Results are joined; a name registered twice is an
    error."""
    return {}


@hookspec
def run_started(folder: Path, settings: Mapping[str, Any], first_step: int) -> None:
    """Once, when the run folder is there and nothing is loaded yet. `settings`: the complete configuration, nested;
    `first_step`: 1, or the step that a resumed run begins with."""


@hookspec
def groups_sampled(step: int, groups: Sequence[Group]) -> None:
    """When a step's responses have been sampled, on all ranks. With dynamic sampling once per round, with the groups
    that are dropped afterwards."""


@hookspec
def groups_scored(step: int, groups: Sequence[ScoredGroup]) -> None:
    """After a step's responses were sampled and scored, before the update: those that the update will see."""


@hookspec
def step_finished(step: int, metrics: Mapping[str, float]) -> None:
    """After a step was committed. `metrics`: its line of metrics.jsonl (docs/metrics.md)."""


@hookspec
def evaluation_finished(step: int, evaluation: Evaluation) -> None:
    """After an evaluation was committed; step 0: before training."""


@hookspec
def run_finished(folder: Path, state: str) -> None:
    """At the end: `finished`, `stopped` (out of time), `interrupted` or `failed`."""
