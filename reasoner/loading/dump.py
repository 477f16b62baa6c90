"""A configuration as TOML, and as a flat list of keys."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from reasoner.config import Config
from reasoner.gro.spec.presets import Weighted
from reasoner.gro.spec.terms import Term
from reasoner.loading.introspection import Path, annotation_at, is_one_value
from reasoner.loading.layers import Leaves, entry_key, layer_of, map_file_paths


def to_toml(config: Config) -> str:
    """The complete configuration as TOML: given as `--config`, it loads to an equal one.

    TOML has no null: a key that is none is left out where that is the default, and is the text `none` elsewhere.
    """
    return tomli_w.dumps(_without_none(config.model_dump(mode="json"), ()))


def settings_toml(config: Config, keys: Collection[Path]) -> str:
    """Some keys of a configuration as TOML, to be laid over the same task by `--config`; a section stands for all of
    its keys.

    Entries of lists of sections are tables by name (`[rewards.math]`), which change them and leave the others as they
    are. A table whose keys are the user's (`columns`, `options`) is written whole, because it replaces the task's.
    Data files and plugins are absolute: in a file they would be relative to it.

    Args:
        keys: the entries of lists of sections by name, as in `settings_of`.
    """
    chosen = {_whole_value(key) for key in keys}
    table: dict[str, Any] = {}
    for path, leaf in settings_of(config).items():
        if not any(path[:length] in chosen for length in range(1, len(path) + 1)):
            continue
        section = table
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = "none" if leaf.value is None else map_file_paths(path, leaf.value, os.path.abspath)
    return tomli_w.dumps(table)


def _whole_value(path: Path) -> Path:
    """The path, or that of the table of the user's keys that it lies in."""
    lengths = range(1, len(path))
    return next((path[:length] for length in lengths if is_one_value(path[:length])), path)


def settings_of(config: Config) -> Leaves:
    """Every key of the configuration with its value, defaults included; the entries of lists of sections by name."""
    return layer_of(config.model_dump(mode="json"), "default").leaves


def term_table(weighted: Weighted) -> dict[str, Any]:
    """A preset's term as the table `[gro.terms.NAME]`."""
    return {
        "weight": weighted.weight,
        "schedule": dataclasses.asdict(weighted.schedule),
        **dataclasses.asdict(weighted.term),
    }


def term_toml(name: str, weighted: Weighted) -> str:
    """The same as TOML, without the choices that are a new term's anyway."""
    neutral = term_table(Weighted(Term()))
    shown = {key: value for key, value in term_table(weighted).items() if key == "source" or value != neutral[key]}
    path = ("gro", "terms", name)
    return tomli_w.dumps({"gro": {"terms": {name: _without_none(shown, path)}}})


def _without_none(value: Any, path: Path) -> Any:
    if isinstance(value, Mapping):
        return {
            key: "none" if inner is None else _without_none(inner, (*path, key))
            for key, inner in value.items()
            if inner is not None or not _defaults_to_none((*path, key))
        }
    if isinstance(value, list):
        entry_path = (*path, "entry") if entry_key(path) else path
        return [_without_none(inner, entry_path) for inner in value]
    return value


def _defaults_to_none(path: Path) -> bool:
    owner = annotation_at(path[:-1])
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        default = owner.model_fields[path[-1]].default
        return default is None and default is not PydanticUndefined
    return True  # the optional numbers of a term (dual, length) default to none
