"""What a program passes, as the command line spells it: values as `--set` has them, files as `--plugin` has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from reasoner.errors import ConfigError, UserError
from reasoner.plugins.reward_api import RewardSource

Plugin = RewardSource | str | Path
"""a function marked with `@reward`, or a Python file with hooks"""


def settings(config: Mapping[str, Any] | None) -> list[str]:
    """`{"run.steps": 3, "learning": {"decay": "linear"}}` as the `KEY=VALUE` of `--set`.

    Dotted keys and nested tables mean the same. Of two values of one key the later one counts, so that
    `{**config, "run.steps": 5}` is what it looks like.

    Raises:
        ConfigError: a value that TOML cannot spell, or a key below another one that has a value.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config must be a table such as {{'run.steps': 3}}, got {type(config).__name__}.")
    values: dict[str, Any] = {}
    for key, value in _flat(config or {}, ""):
        for other in values:
            if key.startswith(f"{other}.") or other.startswith(f"{key}."):
                raise ConfigError(f"config sets {other} and {key}, one inside the other; put both into one value.")
        values[key] = value
    return [f"{key}={_toml_value(key, value)}" for key, value in values.items()]


def check_plugins(plugins: Iterable[Plugin]) -> list[Plugin]:
    """The plugins, if each is a function marked with `@reward` or a file.

    Raises:
        UserError: one is something else; the message says what it got.
    """
    if isinstance(plugins, str | Path | RewardSource) or not isinstance(plugins, Iterable):
        raise UserError(f"plugins takes a list, got {_describe(plugins)}: write plugins=[...].")
    own_plugins = list(plugins)
    for plugin in own_plugins:
        if not isinstance(plugin, Plugin):
            raise UserError(
                f"plugins takes functions marked with @reward(NAME), and Python files; got {_describe(plugin)}."
                + (" Put @reward('a_name') over it." if callable(plugin) else "")
            )
    return own_plugins


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Tables whose names can stand in a dotted key are taken apart; the others are values."""
    for name, value in table.items():
        if not isinstance(name, str):
            raise ConfigError(f"config: {prefix}{name} must be text, got {type(name).__name__}.")
        if isinstance(value, Mapping) and value and all(_is_simple(inner) for inner in value):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_simple(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not set(name) & set(".= \t\n")


def _toml_value(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        entries = (f"{_text(str(name))} = {_toml_value(f'{key}.{name}', inner)}" for name, inner in value.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(f"{key}[{index}]", inner) for index, inner in enumerate(value)) + "]"
    if value is None:
        return _text("none")  # TOML has no null: this is how a key is set to none
    if isinstance(value, str | Path):
        return _text(str(value))
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of numpy or torch
    if isinstance(value, bool | int | float):
        return tomli_w.dumps({"value": value}).partition("=")[2].strip()
    if isinstance(value, RewardSource):
        raise ConfigError(f"config: {key} takes a name: {value.name!r}. The function goes into plugins=[...].")
    raise ConfigError(
        f"config: {key} has a value of type {type(value).__name__}; a configuration holds text, numbers, true and "
        "false, None, lists and tables."
    )


def _text(text: str) -> str:
    return tomli_w.dumps({"value": text}).partition("=")[2].strip()


def _describe(value: object) -> str:
    return f"{getattr(value, '__name__', None) or repr(value)[:80]} ({type(value).__name__})"
