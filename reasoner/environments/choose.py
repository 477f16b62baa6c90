"""The tools and the environment that a configuration names, with their options checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasoner.config import EnvironmentConfig
from reasoner.errors import ConfigError, nearest
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.tool_api import Tool
from reasoner.records import ToolDescription


@dataclass(frozen=True, slots=True)
class ConfiguredTool:
    """A tool, ready to be called."""

    tool: Tool
    options: Mapping[str, Any]
    timeout_s: float
    """seconds per call"""
    keeps_state: bool
    """whether one instance serves all calls of a response"""

    @property
    def description(self) -> ToolDescription:
        """What the policy is told."""
        return ToolDescription(self.tool.name, self.tool.description, self.tool.schema)


@dataclass(frozen=True, slots=True)
class ConfiguredEnvironment:
    """The tools of a task, and its environment if there is one."""

    kind: EnvironmentKind | None
    options: Mapping[str, Any]
    timeout_s: float
    """seconds per call of `start`, `step` and `close`"""
    tools: Mapping[str, ConfiguredTool]
    """by name: those of the environment, then those that the task names"""

    def ready(self) -> dict[str, str]:
        """What the environment and the tools say of this machine, by their names; those that say nothing are absent.

        Raises:
            UserError: something that a call will need is not there; it says what to install or set.
        """
        lines = {}
        if self.kind is not None:
            lines[f"environment {self.kind.name}"] = self.kind.ready(self.options)
        lines |= {f"tool {name}": configured.tool.ready(configured.options) for name, configured in self.tools.items()}
        return {name: line for name, line in lines.items() if line}

    @property
    def keeps_state(self) -> bool:
        """Whether a response holds a worker of its own."""
        return self.kind is not None or any(configured.keeps_state for configured in self.tools.values())


def choose(
    config: EnvironmentConfig, tools: Mapping[str, Tool], kinds: Mapping[str, EnvironmentKind]
) -> ConfiguredEnvironment:
    """What the section names.

    Raises:
        ConfigError: a name or an option that there is not.
    """
    kind, options = _kind(config, kinds)
    chosen: dict[str, ConfiguredTool] = {}
    for name, tool in (kind.tools if kind else {}).items():
        chosen[name] = ConfiguredTool(tool, {}, config.timeout_s or tool.timeout_s, keeps_state=True)
    for name in config.tools:
        if name in chosen:
            raise ConfigError(f"environment.tools: {name!r} is a tool that environment {config.name!r} brings itself.")
        try:
            tool = tools[name]
        except KeyError:
            raise ConfigError(
                f"environment.tools: there is no tool {name!r}.{nearest(name, tools)} Registered: "
                f"{', '.join(tools) or 'none'}."
            ) from None
        tool_options = tool.check_options(config.tool_options.get(name, {}))
        chosen[name] = ConfiguredTool(
            tool, tool_options, config.timeout_s or tool.timeout_s, tool.is_stateful(tool_options)
        )
    own_s = kind.timeout_s if kind else 0.0
    return ConfiguredEnvironment(kind, options, config.timeout_s or own_s, chosen)


def _kind(
    config: EnvironmentConfig, kinds: Mapping[str, EnvironmentKind]
) -> tuple[EnvironmentKind | None, dict[str, Any]]:
    if not config.name:
        return None, {}
    try:
        kind = kinds[config.name]
    except KeyError:
        raise ConfigError(
            f"environment.name: there is no environment {config.name!r}.{nearest(config.name, kinds)} Registered: "
            f"{', '.join(kinds) or 'none'}."
        ) from None
    return kind, kind.check_options(config.options)
