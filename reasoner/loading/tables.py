"""The tables of a task file and its profile, with the tasks inside taken out of them (`[[mixture]]`,
`[[evaluation.also]]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasoner.errors import ConfigError
from reasoner.loading.introspection import Path as Key
from reasoner.loading.layers import TASKS, Layer, Leaf
from reasoner.loading.task_files import TaskFile
from reasoner.loading.task_layers import choose_profile, layer_of_file

MIXTURE, ALSO = TASKS
_Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """The values of one file or profile, with the tasks inside taken out."""

    origin: str
    file: Path | None
    own: _Table
    """the rest"""
    listed: Mapping[Key, Sequence[_Table]] = field(default_factory=dict)
    """by place (`MIXTURE`, `ALSO`): the entries of a list, which replaces the list of lower layers"""
    changed: Mapping[Key, Mapping[str, _Table]] = field(default_factory=dict)
    """by place: tables that change an entry, by its name"""

    @classmethod
    def of(cls, table: _Table, origin: str, file: Path | None) -> Tables:
        """
        Raises:
            ConfigError: an entry names no task.
        """
        own: dict[str, Any] = dict(table)
        if isinstance(own.get("evaluation"), Mapping):
            own["evaluation"] = dict(own["evaluation"])
        listed: dict[Key, Sequence[_Table]] = {}
        changed: dict[Key, Mapping[str, _Table]] = {}
        for place in TASKS:
            above = own if len(place) == 1 else own.get(place[0])
            if not isinstance(above, dict):
                continue
            value = above.get(place[-1])
            if isinstance(value, list):
                listed[place] = [_entry(entry, f"{'.'.join(place)}[{at}]", origin) for at, entry in enumerate(value)]
            elif isinstance(value, Mapping) and all(isinstance(entry, Mapping) for entry in value.values()):
                changed[place] = value
            else:
                continue
            del above[place[-1]]
        if own.get("evaluation") == {}:
            del own["evaluation"]
        return cls(origin, file, own, listed, changed)

    @property
    def layer(self) -> Layer:
        """What is not of a task inside."""
        return layer_of_file(self.own, self.origin, self.file)


def tables_of(task_file: TaskFile, profile: str | None) -> tuple[list[Tables], Leaf]:
    """A task file's values, those of the chosen profile, and the profile's name."""
    own = {key: value for key, value in task_file.table.items() if key != "profiles"}
    tables = [Tables.of(own, task_file.origin, task_file.path)]
    if profile is not None and MIXTURE in tables[0].listed and not task_file.profiles:
        return tables, Leaf(profile, "--profile")  # it is that of the parts
    name, reason = choose_profile(task_file, profile)
    if name:
        tables.append(Tables.of(task_file.profiles[name], f"profile {name}", task_file.path))
    return tables, Leaf(name, reason)


def _entry(entry: object, place: str, origin: str) -> _Table:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("task"), str):
        raise ConfigError(f"{origin}: {place}.task is needed and not set: the name of a task (`reasoner tasks list`).")
    return entry
