"""Finds plugins and calls their hooks: the only module that does."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from reasoner import hookspecs
from reasoner.errors import UserError, nearest
from reasoner.gro.algorithms import BUILT_IN as BUILT_IN_ALGORITHMS
from reasoner.gro.algorithms import Algorithms
from reasoner.gro.presets import Preset
from reasoner.hookspecs import PROJECT, Generator
from reasoner.rewards_api import RewardSource

T = TypeVar("T")

BUILT_IN = ("reasoner_rewards", "reasoner_tasks")


class PluginError(UserError):
    """A plugin cannot be imported, or claims a name that is taken; the message names its distribution or file."""


def build_manager(files: Sequence[str] = ()) -> pluggy.PluginManager:
    """A fresh plugin manager: built-ins, installed distributions, then single files, in that order.

    Raises:
        PluginError: a plugin cannot be imported or implements a hook that does not exist.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in BUILT_IN:
        _register(manager, importlib.import_module(name), f"built-in package {name}")
    for entry in importlib.metadata.entry_points(group=PROJECT):
        origin = f"distribution {entry.dist.name if entry.dist else '?'} ({entry.value})"
        _register(manager, _import(origin, entry.load), origin)
    for file in files:
        path = Path(file)
        _register(manager, _import(f"plugin file {path}", lambda path=path: _import_file(path)), f"plugin file {path}")
    return manager


def reward_sources(manager: pluggy.PluginManager) -> dict[str, RewardSource]:
    """All reward sources by name."""
    named = ((source.name, source) for sources in manager.hook.register_rewards() for source in sources)
    return _unique("reward source", named)


def task_files(manager: pluggy.PluginManager) -> dict[str, Path]:
    """All task files by task name."""
    return _unique("task", ((path.stem, path) for paths in manager.hook.register_tasks() for path in paths))


def generators(manager: pluggy.PluginManager) -> dict[str, Generator]:
    """All generators of problems by name."""
    return _unique("generator", (item for table in manager.hook.register_generators() for item in table.items()))


def algorithms(manager: pluggy.PluginManager) -> Algorithms:
    """All methods, credits and links by name, the built-in ones first."""
    tables: list[Algorithms] = [BUILT_IN_ALGORITHMS, *manager.hook.register_algorithms()]
    return Algorithms(
        presets=_unique("method", (item for table in tables for item in table.presets.items())),
        credits=_unique("credit", (item for table in tables for item in table.credits.items())),
        links=_unique("link", (item for table in tables for item in table.links.items())),
    )


def find(kind: str, name: str, table: Mapping[str, T], listing: str) -> T:
    """`table[name]`, or a `UserError` with the nearest name and the command that lists them all."""
    try:
        return table[name]
    except KeyError:
        raise UserError(f"there is no {kind} {name!r}.{nearest(name, table)} See `{listing}`.") from None


def _unique(kind: str, named: Iterable[tuple[str, T]]) -> dict[str, T]:
    table: dict[str, T] = {}
    for name, value in named:
        if name in table:
            raise PluginError(
                f"{kind} {name!r} is registered twice: {_shown(table[name])} and {_shown(value)}. Rename one of them."
            )
        table[name] = value
    return table


def _shown(value: object) -> str:
    """A method by its paper, anything else as it is: its terms would fill the screen."""
    return f"the one of {value.paper!r}" if isinstance(value, Preset) else str(value)


def _register(manager: pluggy.PluginManager, plugin: ModuleType, origin: str) -> None:
    known = {name for name in vars(hookspecs) if name.startswith("register_")}
    for name, value in vars(plugin).items():
        if hasattr(value, f"{PROJECT}_impl") and name not in known:
            raise PluginError(f"{origin} implements an unknown hook {name!r}.{nearest(name, known)}")
    try:
        manager.register(plugin, name=origin)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{origin}: {error}") from error


def _import(origin: str, load: Any) -> ModuleType:
    try:
        module = load()
    except Exception as error:
        raise PluginError(f"{origin} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(module, ModuleType):
        raise PluginError(f"{origin} must name a module, got {type(module).__name__}")
    return module


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    resolved = path.resolve()
    name = f"reasoner_plugin_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
