"""Finds plugins and calls their hooks: the only module that does.

A plugin that the user named (`--plugin`, `plugins = [...]`) must work. An installed distribution that does not is set
aside: commands that do not need it continue, and an error about a name that is not registered says what is broken.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import pluggy

from reasoner.errors import UserError, nearest
from reasoner.gro.spec.presets import Preset
from reasoner.gro.spec.registry import BUILT_IN as BUILT_IN_ALGORITHMS
from reasoner.gro.spec.registry import Algorithms
from reasoner.plugins import hookspecs
from reasoner.plugins.contributions import (
    algorithms_of,
    environments_of,
    generators_of,
    reward_sources_of,
    task_families_of,
    task_files_of,
    tools_of,
    trackers_of,
)
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.hookspecs import PROJECT, Generator, TaskFamily
from reasoner.plugins.importing import PluginError, import_file, import_plugin
from reasoner.plugins.reward_api import RewardSource
from reasoner.plugins.tool_api import Tool
from reasoner.plugins.tracker_api import TrackerKind

T = TypeVar("T")

BUILT_IN = ("reasoner_rewards", "reasoner_environments", "reasoner_tasks", "reasoner.monitoring.trackers")
PACKAGE, DISTRIBUTION, FILE = "built-in package", "distribution", "plugin file"
"""how the origins of plugins begin"""


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands in the manager for an installed plugin that does not work."""

    error: PluginError


@dataclass(frozen=True, slots=True)
class Registration:
    """One plugin and the names that it registers."""

    origin: str
    """how messages call it: `built-in package reasoner_rewards`, `distribution x (x.hooks)`, `plugin file x.py`"""
    file: str
    """of its module; empty: broken"""
    rewards: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    """task files, then families as `NAME/*`"""
    generators: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    """methods, then `credit NAME` and `link NAME`"""
    trackers: tuple[str, ...] = ()
    error: str = ""
    """why it is broken; empty: it works"""


class RegisteredNames(dict[str, T]):
    """What is registered, by name.

    `names[name]` of one that is not there raises `PluginError`, and no `KeyError`, while an installed plugin is broken:
    the name may be one of its own, and "there is no such name" would send the user looking for a typing error. To see
    whether a name is there, and nothing more, use `in`.
    """

    def __init__(self, kind: str, table: Mapping[str, T], broken: Sequence[PluginError]) -> None:
        super().__init__(table)
        self._kind, self._broken = kind, tuple(broken)

    def __missing__(self, name: str) -> NoReturn:
        if self._broken:
            raise PluginError(
                f"there is no {self._kind} {name!r}.{nearest(name, self)} A broken plugin may have it: "
                f"{'; '.join(map(str, self._broken))}. Repair or uninstall it; see `reasoner plugins list`."
            )
        raise KeyError(name)


class TaskFiles(RegisteredNames[Path]):
    """Task files by task name, and beside them the families, whose tasks have no file."""

    def __init__(
        self, files: Mapping[str, Path], families: RegisteredNames[TaskFamily], broken: Sequence[PluginError]
    ) -> None:
        super().__init__("task", files, broken)
        self.families = families


def build_manager(files: Sequence[str] = ()) -> pluggy.PluginManager:
    """The plugins of a process: built-ins, installed distributions, then single files, in that order.

    A command builds one: `load_config` does, and `Resolved.manager` carries it to whatever needs plugins.

    Raises:
        PluginError: a file cannot be imported or implements a hook that does not exist. (An installed distribution
            that does is kept as `Broken`.)
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in BUILT_IN:
        _register(manager, importlib.import_module(name), f"{PACKAGE} {name}")
    for entry in importlib.metadata.entry_points(group=PROJECT):
        origin = f"{DISTRIBUTION} {entry.dist.name if entry.dist else '?'} ({entry.value})"
        if manager.has_plugin(origin):
            continue  # one module under two entry points
        try:
            _register(manager, import_plugin(origin, entry.load), origin)
        except PluginError as error:
            _set_aside(manager, origin, error)
    add_files(manager, files)
    return manager


def add_files(manager: pluggy.PluginManager, files: Iterable[str]) -> None:
    """Register plugin files that are not in the manager yet, in this order.

    Raises:
        PluginError: as `build_manager`.
    """
    for file in files:
        path = Path(file)
        origin = f"{FILE} {path}"
        module = import_plugin(origin, partial(import_file, path))
        if not manager.is_registered(module):  # the same file may be named in two ways
            _refuse_forgotten(module, origin)
            _register(manager, module, origin)


def reward_sources(manager: pluggy.PluginManager) -> dict[str, RewardSource]:
    """All reward sources by name.

    Raises:
        PluginError: a name is registered twice, or a plugin that the user named does not work.
    """
    return _unique("reward source", manager, _results(manager, "register_rewards", reward_sources_of))


def tools(manager: pluggy.PluginManager) -> dict[str, Tool]:
    """All tools by name. Raises as `reward_sources`."""
    return _unique("tool", manager, _results(manager, "register_tools", tools_of))


def environments(manager: pluggy.PluginManager) -> dict[str, EnvironmentKind]:
    """All environments by name. Raises as `reward_sources`."""
    return _unique("environment", manager, _results(manager, "register_environments", environments_of))


def task_files(manager: pluggy.PluginManager) -> TaskFiles:
    """All task files by task name, and the families of tasks. Raises as `reward_sources`."""
    files = _unique("task", manager, _results(manager, "register_tasks", task_files_of))
    families = _unique("task family", manager, _results(manager, "register_task_families", task_families_of))
    return TaskFiles(files, families, broken(manager))


def generators(manager: pluggy.PluginManager) -> dict[str, Generator]:
    """All generators of problems by name. Raises as `reward_sources`."""
    return _unique("generator", manager, _results(manager, "register_generators", generators_of))


def algorithms(manager: pluggy.PluginManager) -> Algorithms:
    """All methods, credits and links by name, the built-in ones first. Raises as `reward_sources`."""
    results = _results(manager, "register_algorithms", algorithms_of)
    tables = {"built-in": BUILT_IN_ALGORITHMS, **results}
    return Algorithms(
        presets=_unique("method", manager, {origin: table.presets for origin, table in tables.items()}),
        credits=_unique("credit", manager, {origin: table.credits for origin, table in tables.items()}),
        links=_unique("link", manager, {origin: table.links for origin, table in tables.items()}),
    )


def trackers(manager: pluggy.PluginManager) -> dict[str, TrackerKind]:
    """All trackers by name. Raises as `reward_sources`."""
    return _unique("tracker", manager, _results(manager, "register_trackers", trackers_of))


def registrations(manager: pluggy.PluginManager) -> list[Registration]:
    """Every plugin with what it registers, the broken ones with their error.

    Raises:
        PluginError: a plugin that the user named does not work.
    """
    rewards = _results(manager, "register_rewards", reward_sources_of)
    callable_ = _results(manager, "register_tools", tools_of)
    answering = _results(manager, "register_environments", environments_of)
    tasks = _results(manager, "register_tasks", task_files_of)
    families = _results(manager, "register_task_families", task_families_of)
    by_plugin = _results(manager, "register_generators", generators_of)
    methods = _results(manager, "register_algorithms", algorithms_of)
    followers = _results(manager, "register_trackers", trackers_of)
    registered = []
    for origin, plugin in manager.list_name_plugin():
        if isinstance(plugin, Broken):
            registered.append(Registration(origin, "", error=str(plugin.error)))
            continue
        own = methods.get(origin, Algorithms())
        registered.append(
            Registration(
                origin,
                str(getattr(plugin, "__file__", "")),
                rewards=tuple(rewards.get(origin, ())),
                tools=tuple(callable_.get(origin, ())),
                environments=tuple(answering.get(origin, ())),
                tasks=(*tasks.get(origin, ()), *(f"{name}/*" for name in families.get(origin, ()))),
                generators=tuple(by_plugin.get(origin, ())),
                algorithms=(
                    *own.presets,
                    *(f"credit {name}" for name in own.credits),
                    *(f"link {n}" for n in own.links),
                ),
                trackers=tuple(followers.get(origin, ())),
            )
        )
    return registered


def broken(manager: pluggy.PluginManager) -> list[PluginError]:
    """Why installed plugins do not work, as far as their hooks were called."""
    return [plugin.error for _, plugin in manager.list_name_plugin() if isinstance(plugin, Broken)]


def find(kind: str, name: str, table: Mapping[str, T], listing: str) -> T:
    """`table[name]`, or a `UserError` with the nearest name and the command that lists them all."""
    try:
        return table[name]
    except KeyError:
        raise UserError(f"there is no {kind} {name!r}.{nearest(name, table)} See `{listing}`.") from None


def _results(manager: pluggy.PluginManager, hook: str, parse: Callable[[Any], T]) -> dict[str, T]:
    """What each plugin's hook returned, by origin, the last one registered first.

    The hooks are called one by one, not joined by pluggy, so that a failure has a name. That of a built-in is a bug and
    shows its traceback.
    """
    results = {}
    for call in reversed(getattr(manager.hook, hook).get_hookimpls()):
        origin = call.plugin_name
        try:
            returned = call.function()
            results[origin] = parse(() if returned is None else returned)
        except (Exception, SystemExit) as error:
            if origin.startswith(PACKAGE):
                raise
            failed = PluginError(f"{origin}: {hook} failed: {type(error).__name__}: {error}")
            if not origin.startswith(DISTRIBUTION):
                raise failed from error
            manager.unregister(name=origin)
            _set_aside(manager, origin, failed)
    return results


def _unique(kind: str, manager: pluggy.PluginManager, tables: Mapping[str, Mapping[str, T]]) -> RegisteredNames[T]:
    joined: dict[str, T] = {}
    for table in tables.values():
        for name, value in table.items():
            if name in joined:
                raise PluginError(
                    f"{kind} {name!r} is registered twice: {_describe_value(joined[name])} and "
                    f"{_describe_value(value)}. Rename one of them; "
                    f"they are of {' and '.join(o for o in tables if name in tables[o])}."
                )
            joined[name] = value
    return RegisteredNames(kind, joined, broken(manager))


def _describe_value(value: object) -> str:
    """A method by its paper, a family or tracker by its title, a source by its function's place, the rest as it is."""
    if isinstance(value, Preset):
        return f"the one of {value.paper!r}"
    if isinstance(value, TaskFamily | TrackerKind):
        return repr(value.title)
    if isinstance(value, RewardSource | Tool):
        return f"{value.function.__module__}.{value.function.__qualname__}"
    if isinstance(value, EnvironmentKind):
        return f"{value.made_by.__module__}.{value.made_by.__qualname__}"
    return str(value)


def _set_aside(manager: pluggy.PluginManager, origin: str, error: PluginError) -> None:
    manager.register(Broken(error), name=origin)


def _register(manager: pluggy.PluginManager, plugin: ModuleType, origin: str) -> None:
    known = {name for name, value in vars(hookspecs).items() if hasattr(value, f"{PROJECT}_spec")}
    for name, value in vars(plugin).items():
        if not hasattr(value, f"{PROJECT}_impl"):
            continue
        if name not in known:
            raise PluginError(f"{origin} implements an unknown hook {name!r}.{nearest(name, known)}")
        offered = list(inspect.signature(getattr(hookspecs, name)).parameters)
        for argument in inspect.signature(value).parameters:
            if argument not in offered:
                raise PluginError(
                    f"{origin}: the hook {name} has no argument {argument!r}.{nearest(argument, offered)} "
                    f"It has: {', '.join(offered) or 'none'}."
                )
    try:
        manager.register(plugin, name=origin)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"{origin}: {error}") from error


def _refuse_forgotten(module: ModuleType, origin: str) -> None:
    """Refuse a file that marks something of its own with a decorator and has no hook that would register it.

    Raises:
        PluginError: with the lines that register it.
    """
    for decorator, hook in (
        ("reward", "register_rewards"),
        ("tool", "register_tools"),
        ("environment", "register_environments"),
    ):
        own = [name for name, value in vars(module).items() if _decorator_of(value) == (decorator, module.__name__)]
        if own and not hasattr(module, hook):
            raise PluginError(
                f"{origin} marks {', '.join(own)} with @{decorator} and does not register it: nothing would find it. "
                f"Add:\n  from reasoner import hookimpl\n  @hookimpl\n  def {hook}():\n"
                f"      return [{', '.join(own)}]"
            )


def _decorator_of(value: object) -> tuple[str, str]:
    """The decorator that made it, and the module of what it decorated."""
    if isinstance(value, RewardSource):
        return "reward", value.function.__module__
    if isinstance(value, Tool):
        return "tool", value.function.__module__
    return ("environment", value.made_by.__module__) if isinstance(value, EnvironmentKind) else ("", "")
