"""A configuration as TOML, and as a flat list of keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from reasoner.config import Config
from reasoner.gro.spec.presets import Weighted
from reasoner.gro.spec.terms import Term
from reasoner.loading.introspection import Path, annotation_at
from reasoner.loading.layers import Leaves, entry_key, layer_of


def to_toml(config: Config) -> str:
    """The complete configuration as TOML: given as `--config`, it loads to an equal one.

    TOML has no null: a key that is none is left out where that is the default, and is the text `none` elsewhere.
    """
    return tomli_w.dumps(_without_none(config.model_dump(mode="json"), ()))


def settings_toml(settings: Mapping[str, Any]) -> str:
    """Some keys of a configuration as TOML, for `--config`.

    >>> print(settings_toml({"lora.rank": 16, "learning.token_budget": 2048, "learning.engine": "torch"}), end="")
    [lora]
    rank = 16
    <BLANKLINE>
    [learning]
    token_budget = 2048
    engine = "torch"

    Args:
        settings: dotted key -> value.
    """
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        section = sections
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = "none" if value is None else value
    return tomli_w.dumps(sections)


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
