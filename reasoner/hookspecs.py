"""The hooks of `reasoner`: the whole contract between the pipeline and its plugins.

A plugin is a module with functions of these names, marked with `hookimpl`. It is found as an installed distribution
with an entry point in the group `reasoner`, or as a single file (`--plugin my_verifier.py`, `plugins = [...]`). The
built-in reward sources and tasks use the same hooks. Every process that needs plugins discovers them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pluggy

from reasoner.gro.algorithms import Algorithms
from reasoner.rewards_api import RewardSource

PROJECT = "reasoner"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Generator = Callable[..., Iterator[Mapping[str, Any]]]
"""`(count, seed, **options) -> rows`: rows are JSON-like mappings with at least the columns that the task's template
names."""


@hookspec
def register_rewards() -> Iterable[RewardSource]:
    """Reward sources, once per process at start-up. Results are joined; a name registered twice is an error."""
    return ()


@hookspec
def register_tasks() -> Iterable[Path]:
    """Task files (TOML), once per command. Results are joined; the file's stem is the task's name and must be
    unique."""
    return ()


@hookspec
def register_generators() -> Mapping[str, Generator]:
    """Generators of problems by name, once per command. Results are joined; a name registered twice is an error."""
    return {}


@hookspec
def register_algorithms() -> Algorithms:
    """Methods, credits and links, once per command. Results are joined; a name registered twice is an error."""
    return Algorithms()
