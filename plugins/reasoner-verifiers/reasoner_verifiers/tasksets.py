"""Tasksets of verifiers by their id; the package is imported here and nowhere else, when it is first asked for.

A taskset is used in one turn: the policy reads a task's prompt, and the task's rewards judge its answer. What needs
more (tools, a runtime, an environment of its own) is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from reasoner import ConfigError, MissingDependencyError

NEEDED = "verifiers>=0.4,<0.5"


@dataclass(frozen=True, slots=True)
class SingleTurnTaskset:
    """A taskset whose tasks are answered in one turn."""

    name: str
    made: Any
    """the `verifiers.v1.Taskset`"""

    def tasks(self) -> Iterator[Any]:
        """Its tasks, in their order."""
        return iter(self.made)

    def task(self, data: Mapping[str, Any]) -> Any:
        """A task from its data, as it was written.

        Raises:
            ValueError: the data is not of a task of this taskset.
        """
        kind = self.made.task_type()
        return kind(kind.data_type().model_validate(data), self.made.config.task)


def open_taskset(name: str, config: Mapping[str, Any]) -> SingleTurnTaskset:
    """The taskset with this id, as `verifiers` finds it: a module of that name, which must be installed.

    Args:
        config: the fields of its configuration.

    Raises:
        MissingDependencyError: verifiers is not installed.
        ConfigError: there is no such taskset, its configuration refuses a field, or it needs more than one turn.
    """
    loaders = library("verifiers.v1.utils.loaders")
    try:
        made = loaders.load_taskset(loaders.taskset_config_type(name).model_validate({**config, "id": name}))
        environment = loaders.environment_class(name)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"verifiers finds no taskset {name!r}: {error}") from error
    except ValueError as error:  # pydantic's, or that a module exports two tasksets
        given = ", ".join(f"{key} = {value!r}" for key, value in config.items()) or "its defaults"
        raise ConfigError(f"the taskset {name!r} refuses {given}: {error}") from error
    if why := _why_not(made, environment):
        raise ConfigError(
            f"the taskset {name!r} {why}, and reasoner uses tasksets of verifiers in a single turn without tools. "
            "Write it as an environment (`reasoner plugins new NAME --environment`)."
        )
    return SingleTurnTaskset(name, made)


@cache
def library(module: str) -> ModuleType:
    """A module of verifiers.

    Raises:
        MissingDependencyError: it is not installed, or another version is.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the plugin reasoner-verifiers needs verifiers and what it needs ({error}); install it with "
            f"`pip install '{NEEDED}'`"
        ) from error


def _why_not(made: Any, environment: type) -> str:
    """Why a single turn is not all that the taskset needs; empty: it is."""
    base = library("verifiers.v1")
    kind, config = made.task_type(), made.config
    if environment is not base.SingleAgentEnv:
        return f"has an environment of its own ({environment.__name__})"
    if kind.toolsets(config.task) or made.toolsets(config):
        return "has tools"
    if kind.NEEDS_CONTAINER:
        return "needs a container"
    for hook in ("setup", "finalize"):
        if getattr(kind, hook) is not getattr(base.Task, hook):
            return f"prepares a runtime ({kind.__name__}.{hook})"
    for name, function in inspect.getmembers(kind, inspect.isfunction):
        if not (hasattr(function, "reward") or hasattr(function, "metric")):
            continue
        runtime = inspect.signature(function).parameters.get("runtime")
        if runtime is not None and runtime.default is inspect.Parameter.empty:
            return f"judges what is in a runtime ({kind.__name__}.{name})"
    return ""
