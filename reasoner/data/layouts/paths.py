"""Dotted paths into a row: `reward_model.ground_truth`, `solutions.0`, `conversations.-1.value`.

A field whose own name is the whole path comes first. A part of a path is the key of an object or the index of a list;
a text that is JSON, as data sets keep tests and metadata in, is gone into like the value that it spells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reasoner.io.parsing import parse_json

MISSING = object()
"""what `look_up` gives for a path that does not exist"""
_INDEX = re.compile(r"-?[0-9]{1,9}")
_DEEPEST = 4
"""parts of the paths that a message names"""
_LONGEST = 100_000
"""characters of a text that is looked into for a message"""


def look_up(fields: Mapping[str, Any], path: str) -> Any:
    """The value at a path of a row, `MISSING` where there is none."""
    if path in fields:
        return fields[path]
    value: Any = fields
    for part in path.split("."):
        value = _inside(unpacked(value), part)
        if value is MISSING:
            break
    return value


def unpacked(value: Any) -> Any:
    """The object or list that a JSON text spells; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def _inside(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part, MISSING)
    if isinstance(value, list) and _INDEX.fullmatch(part) and -len(value) <= int(part) < len(value):
        return value[int(part)]
    return MISSING


def paths_of(fields: Mapping[str, Any], depth: int = _DEEPEST) -> Iterator[str]:
    """The paths that a row has: its fields, each with what is inside of it; of a list the first entry."""
    for name, value in fields.items():
        yield name
        short = not isinstance(value, str) or len(value) <= _LONGEST
        inner = unpacked(value) if short else value
        if isinstance(inner, list):
            inner = {"0": inner[0]} if inner else {}
        if isinstance(inner, Mapping) and depth > 1:
            yield from (f"{name}.{path}" for path in paths_of(inner, depth - 1))
