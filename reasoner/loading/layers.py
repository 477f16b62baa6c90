"""Layers of values and how they are laid over each other. Pure: no files, no environment.

Values are kept flat, by the parts of their key, each with its origin. Laying a layer over others replaces what both set
and keeps the rest, with rules that keep values apart that were never meant for each other:

- a list of `[[rewards]]` replaces the lower list; a table `[rewards.math]` changes one entry of it;
- a table whose keys are the user's (`columns`, `options`, `chat_template_kwargs`) is one value: given as a table, it
  replaces the lower one; `--set data.train.columns.answer=FIELD` changes one entry of it;
- a layer that sets `kind` in a table of `[gro]` drops what lower layers set in that table;
- a layer that sets `preset` in `[gro]` or in one of its terms drops what lower layers set there;
- a layer that names the origin of a data source (`path`, `hub`, `generator`) drops the origin of lower layers and what
  belongs to it: `options`, `columns`, `split`, `seed`. The budget `limit` and `shuffle` stay, and below a `path` the
  `columns`: it usually is a copy of what the task takes from the hub.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from reasoner.config import DataConfig
from reasoner.errors import ConfigError, nearest
from reasoner.io.parsing import parse_toml
from reasoner.loading.introspection import Path, allows_none, is_list, is_one_value, is_section, is_text

ORIGINS = ("path", "hub", "generator")
ORIGIN_BOUND = (*ORIGINS, "options", "columns", "split", "seed")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value and the layer that it came from (`profile laptop`, `--set`)."""

    value: Any
    origin: str


Leaves = Mapping[Path, Leaf]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer sets, and which tables of lower layers it does away with."""

    leaves: Leaves
    drops: frozenset[Path]


def layer_of(table: Mapping[str, Any], origin: str) -> Layer:
    """The layer of a table as TOML gives it. The text `none` becomes None where a key may be none (TOML has no null).

    Raises:
        ConfigError: the table names two origins of one data source, or one reward source twice.
    """
    return _layer(table, origin, set(_whole_tables(table, ())))


def _layer(table: Mapping[str, Any], origin: str, whole: set[Path]) -> Layer:
    """
    Args:
        whole: tables that replace those of lower layers.
    """
    leaves = {path: Leaf(value, origin) for path, value in _leaves(table, (), origin)}
    for name in DataConfig.model_fields:
        named = [key for key in ORIGINS if _is_set(leaves, ("data", name, key))]
        if len(named) > 1:
            keys = " and ".join(f"data.{name}.{key}" for key in named)
            raise ConfigError(f"{origin} sets {keys}: a data source has one origin; keep one of them.")
    drops = {prefix for path, leaf in leaves.items() for prefix in _drops(path, leaf)}
    drops |= {path for path in (("rewards",), *TASKS) if isinstance(_look_up(table, path), list)}
    return Layer(leaves, frozenset(drops | whole))


def overlay(lower: Leaves, upper: Layer) -> Leaves:
    """`upper` laid over `lower`."""
    gone = upper.drops | set(upper.leaves)
    tables = {path[:length] for path in upper.leaves for length in range(1, len(path))}
    kept = {
        path: leaf
        for path, leaf in lower.items()
        if path not in tables and not any(path[:length] in gone for length in range(1, len(path) + 1))
    }
    return kept | dict(upper.leaves)


TASKS: tuple[Path, ...] = (("mixture",), ("evaluation", "also"))
"""the lists of tasks, each of which has prompt, data and rewards of its own"""


def entry_key(path: Path) -> str:
    """The key that names the entries of the list of sections at `path`; empty: there is no such list."""
    for tasks in TASKS:
        if path == tasks:
            return "task"
        if path[: len(tasks)] == tasks:
            path = path[len(tasks) + 1 :]
    return "source" if path == ("rewards",) else ""


def entries(leaves: Leaves, path: Path) -> list[str]:
    """The entries of the list of sections at `path` by name, in order."""
    length = len(path)
    return list(dict.fromkeys(key[length] for key in leaves if len(key) > length and key[:length] == path))


def nest(leaves: Leaves) -> dict[str, Any]:
    """The leaves as nested tables; lists of sections in order of appearance."""
    table: dict[str, Any] = {}
    for path, leaf in leaves.items():
        inner = table
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = leaf.value
    lists = {path[:length] for path in leaves for length in range(1, len(path) + 1) if entry_key(path[:length])}
    for *above, last in sorted(lists, key=len, reverse=True):
        inner = table
        for part in above:
            inner = inner[part]
        if isinstance(inner[last], dict):
            inner[last] = list(inner[last].values())
    return table


def located(leaves: Leaves, folder: str) -> Leaves:
    """The leaves of a file in `folder`, with the data files and plugins that it names relative to itself."""
    if folder in ("", "."):
        return leaves
    # os.path.join: an absolute path stays as it is written
    join = partial(os.path.join, folder)
    return {path: Leaf(map_file_paths(path, leaf.value, join), leaf.origin) for path, leaf in leaves.items()}


def map_file_paths(path: Path, value: Any, change: Callable[[str], str]) -> Any:
    """The value at `path` with its file names changed, where it names data files or plugins: in a file these are
    relative to it. A name that begins with `~` stays."""
    for tasks in TASKS:  # a task inside names data files, too
        if path[: len(tasks)] == tasks:
            path = path[len(tasks) + 1 :]
    if not (path == ("plugins",) or (len(path) == 3 and path[0] == "data" and path[2] == "path")):
        return value
    if isinstance(value, list):
        return [change(item) if _is_relocatable(item) else item for item in value]
    return change(value) if _is_relocatable(value) else value


def _is_relocatable(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("~")


def reward_names(leaves: Leaves) -> list[str]:
    """The entries of `[[rewards]]` by source, in order."""
    return entries(leaves, ("rewards",))


def layer_of_sets(sets: Sequence[str], lower: Leaves) -> Layer:
    """The layer of `--set key=value` arguments over `lower`.

    `rewards.math.weight` and `rewards.0.weight` address an entry of `[[rewards]]`.
    Values are TOML (`0.5`, `true`, `[1, 2]`, `{a = 1}`, `"text"`); what does not look like TOML, and a template
    (`{{ question }}`), is text.

    Raises:
        ConfigError: no `=`, broken TOML, no such entry of `rewards`, or arguments that contradict each other.
    """
    seen: dict[Path, str] = {}
    table: dict[str, Any] = {}
    whole: set[Path] = set()
    for argument in sets:
        key, separator, text = argument.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not separator or not all(path):
            raise ConfigError(f"--set {argument}: write it as key=value, for example --set sampling.temperature=0.8.")
        path = _by_name(path, reward_names(lower), argument)
        for other, earlier in seen.items():
            shorter = min(len(path), len(other))
            if path[:shorter] == other[:shorter]:
                raise ConfigError(f"--set {earlier} and --set {argument} set the same key; keep one of them.")
        seen[path] = argument
        inner = table
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value = _value(path, argument, text.strip())
        if isinstance(value, Mapping) and not is_section(path):
            whole.add(path)
    return _layer(table, "--set", whole)


def _leaves(value: Any, path: Path, origin: str) -> Iterator[tuple[Path, Any]]:
    if (named_by := entry_key(path)) and isinstance(value, list):
        value = _by_name_of(value, path, named_by, origin)
    if isinstance(value, Mapping):
        if not value and not is_section(path):
            yield path, {}  # empties a free table such as `options`
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key), origin)
    elif value == "none" and allows_none(path):
        yield path, None
    elif isinstance(value, datetime.date | datetime.time):
        yield path, str(value)  # no key holds a date; a folder named 2026-01-31 is text
    else:
        yield path, value


def _whole_tables(value: Any, path: Path) -> Iterator[Path]:
    """The tables in a file's table that replace those of lower layers."""
    if path and is_one_value(path):
        yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _whole_tables(inner, (*path, key))


def _by_name_of(listed: list[Any], path: Path, key: str, origin: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for index, entry in enumerate(listed):
        value = entry.get(key) if isinstance(entry, Mapping) else None
        name = value if isinstance(value, str) else str(index)
        if name in named:
            where = ".".join(path)
            raise ConfigError(f"{origin}: {where} names the {key} {name!r} twice; each {key} may appear once.")
        named[name] = entry
    return named


def _look_up(table: Mapping[str, Any], path: Path) -> Any:
    value: Any = table
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_set(leaves: Leaves, path: Path) -> bool:
    return path in leaves and leaves[path].value is not None


def _drops(path: Path, leaf: Leaf) -> Iterator[Path]:
    if path[0] == "gro" and path[-1] in ("preset", "kind"):
        yield path[:-1]
    elif len(path) == 3 and path[0] == "data" and path[2] in ORIGINS and leaf.value is not None:
        yield from ((*path[:2], key) for key in ORIGIN_BOUND if (path[2], key) != ("path", "columns"))


def _by_name(path: Path, names: Sequence[str], argument: str) -> Path:
    """`rewards.0.weight` as `rewards.math.weight`."""
    if path[0] != "rewards" or len(path) == 1:
        return path
    entry = path[1]
    if entry.isdecimal() and int(entry) < len(names):
        entry = names[int(entry)]
    if entry not in names:
        raise ConfigError(
            f"--set {argument}: rewards has no entry {path[1]!r}.{nearest(path[1], names)} Its entries are: "
            f"{', '.join(names) or 'none'}. To use other sources, set the whole list in a --config file."
        )
    return ("rewards", entry, *path[2:])


def _value(path: Path, argument: str, text: str) -> Any:
    quoted = text.startswith(('"', "'")) or (text.startswith("[") and is_list(path))
    if text.startswith("{{") or (is_text(path) and not quoted):
        return text  # also what looks like TOML: a template `{{ question }}`, a folder named 2026
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        if text.startswith(("[", "{", '"', "'")):
            raise ConfigError(f"--set {argument}: the value is {error}. Quote it if it is meant as text.") from None
        return text
    return parsed["value"] if len(parsed) == 1 else text
