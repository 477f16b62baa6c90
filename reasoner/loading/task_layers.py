"""The layers of a task file: the task's own values, and those of the profile that is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasoner.errors import ConfigError, nearest
from reasoner.loading.introspection import Path as Key
from reasoner.loading.layers import Layer, layer_of, located
from reasoner.loading.task_files import TaskFile, is_complete
from reasoner.models.resolve import has_nvidia_gpu

IDENTITY: tuple[Key, ...] = (("task",), ("profile",))


def complete_file(task_file: TaskFile, origin: str, table: Mapping[str, Any]) -> TaskFile:
    """A complete configuration in the place of the task that was named."""
    if table["task"] != task_file.name:
        raise ConfigError(f"{origin} is a configuration of task {table['task']!r}, not of {task_file.name!r}.")
    return TaskFile(task_file.name, Path(origin), origin, table)


def refuse_complete(origin: str, table: Mapping[str, Any]) -> None:
    """Refuse a complete configuration that is laid over others."""
    if is_complete(table):
        raise ConfigError(
            f"--config {origin} is a complete configuration, which sets every key and would undo the --config before "
            "it: give it first, and the files that change it after it."
        )


def layer_of_file(table: Mapping[str, Any], origin: str, file: str | Path | None) -> Layer:
    """The layer of a table that a file holds; the data files and plugins that it names are relative to it.

    Raises:
        ConfigError: it sets the task or the profile.
    """
    layer = without_identity(layer_of(table, origin))
    return layer if file is None else replace(layer, leaves=located(layer.leaves, str(Path(file).expanduser().parent)))


def without_identity(layer: Layer) -> Layer:
    """The layer, which must not set the task or the profile.

    Raises:
        ConfigError: it does.
    """
    for key in IDENTITY:
        if key in layer.leaves:
            raise ConfigError(
                f"{layer.leaves[key].origin} sets {key[0]!r}: the task and the profile are chosen on the command line, "
                "`reasoner run TASK --profile NAME`."
            )
    return layer


def choose_profile(task_file: TaskFile, wanted: str | None) -> tuple[str, str]:
    """Name of the profile (empty: the task has none) and why it was chosen."""
    names = list(task_file.profiles)
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(
                f"--profile {wanted}: {task_file.origin} has no such profile.{nearest(wanted, names)} "
                f"It has: {', '.join(names) or 'none'}."
            )
        return wanted, "--profile"
    if len(names) <= 1:
        return (names[0], "the only profile") if names else ("", "the task has no profiles")
    name, reason = ("gpu", "an NVIDIA GPU is here") if has_nvidia_gpu() else ("laptop", "no NVIDIA GPU here")
    if name not in names:
        raise ConfigError(f"{task_file.origin}: choose a profile with --profile: {', '.join(names)}.")
    return name, reason
