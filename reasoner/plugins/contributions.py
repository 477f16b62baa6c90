"""What the `register_*` hook of one plugin returned, checked.

What is wrong raises `TypeError` or `ValueError`; the manager puts the plugin and its hook before the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from reasoner.gro.spec.registry import Algorithms
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.hookspecs import Generator, TaskFamily
from reasoner.plugins.reward_api import RewardSource
from reasoner.plugins.tool_api import Tool
from reasoner.plugins.tracker_api import TrackerKind

T = TypeVar("T")
_FAMILY = re.compile(r"[a-z][a-z0-9_]*")
"""a family's name: `-` joins it with a member's in run folders, `/` in commands"""


def reward_sources_of(returned: Iterable[object]) -> dict[str, RewardSource]:
    """Reward sources by name."""
    sources = list(returned)
    for source in sources:
        if not isinstance(source, RewardSource):
            raise TypeError(f"it must return functions marked with @reward, got {source!r}")
    return _index_by_name((source.name, source) for source in sources if isinstance(source, RewardSource))


def tools_of(returned: Iterable[object]) -> dict[str, Tool]:
    """Tools by name."""
    tools: list[Tool] = []
    for item in returned:
        if not isinstance(item, Tool):
            raise TypeError(f"it must return functions or classes marked with @tool, got {item!r}")
        if item.is_method:
            raise TypeError(f"the tool {item.name!r} is a method of an environment: register the environment")
        tools.append(item)
    return _index_by_name((tool.name, tool) for tool in tools)


def environments_of(returned: Iterable[object]) -> dict[str, EnvironmentKind]:
    """Environments by name."""
    kinds: list[EnvironmentKind] = []
    for item in returned:
        if not isinstance(item, EnvironmentKind):
            raise TypeError(f"it must return classes marked with @environment, got {item!r}")
        kinds.append(item)
    return _index_by_name((kind.name, kind) for kind in kinds)


def task_files_of(returned: Iterable[Path]) -> dict[str, Path]:
    """Task files by the name of their task."""
    return _index_by_name((Path(path).stem, Path(path)) for path in returned)


def task_families_of(returned: Mapping[str, object]) -> dict[str, TaskFamily]:
    """Task families by name."""
    families: dict[str, TaskFamily] = {}
    for name, family in _check_names(returned).items():
        if not isinstance(family, TaskFamily):
            raise TypeError(f"{name!r} must be a TaskFamily, got {type(family).__name__}")
        if not _FAMILY.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a valid name for a task family: use lower-case letters, digits and '_', a letter "
                "first"
            )
        families[name] = family
    return families


def generators_of(returned: Mapping[str, Generator]) -> dict[str, Generator]:
    """Generators of problems by name."""
    return _check_names(returned)


def algorithms_of(returned: object) -> Algorithms:
    """Methods, credits and links."""
    if returned == ():
        return Algorithms()
    if not isinstance(returned, Algorithms):
        raise TypeError(f"it must return Algorithms, got {type(returned).__name__}")
    for table in (returned.presets, returned.credits, returned.links):
        _check_names(table)
    return returned


def trackers_of(returned: Mapping[str, object]) -> dict[str, TrackerKind]:
    """Trackers by name."""
    kinds: dict[str, TrackerKind] = {}
    for name, kind in _check_names(returned).items():
        if not isinstance(kind, TrackerKind):
            raise TypeError(f"{name!r} must be a TrackerKind, got {type(kind).__name__}")
        kinds[name] = kind
    return kinds


def _index_by_name(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    table: dict[str, T] = {}
    for name, value in named:
        if name in table:
            raise ValueError(f"it registers {name!r} twice")
        table[name] = value
    return _check_names(table)


def _check_names(table: Mapping[str, T]) -> dict[str, T]:
    """The table, if its names are names: they are sorted, compared and printed."""
    for name in table:
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"a name must be text, got {name!r}")
    return dict(table)
