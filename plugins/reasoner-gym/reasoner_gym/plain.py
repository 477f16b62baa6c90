"""Values of Python as JSON values and back, without loss: scorers tell a tuple from a list.

    tuple -> {"$tuple": [..]}    set -> {"$set": [..]}    Fraction -> {"$fraction": "1/3"}
    mapping with keys that are no text, or that begin with "$" -> {"$map": [[key, value], ..]}

A number or text of numpy becomes Python's own. Everything else is refused by its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any


def to_plain(value: Any, place: str) -> Any:
    """The value in JSON's own types.

    Raises:
        TypeError: something in it has no such form; the message has its place, for example `metadata.graph[0]`.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{place} is {value}, which JSON does not have")
        return value
    if isinstance(value, Fraction):
        return {"$fraction": str(value)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {str(key): to_plain(inner, f"{place}.{key}") for key, inner in value.items()}
        pairs = [
            [to_plain(key, f"a key of {place}"), to_plain(item, f"{place}[{key!r}]")] for key, item in value.items()
        ]
        return {"$map": pairs}
    if isinstance(value, list | tuple):
        items = [to_plain(inner, f"{place}[{index}]") for index, inner in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, set | frozenset):
        return {"$set": [to_plain(inner, f"an element of {place}") for inner in sorted(value, key=repr)]}
    raise TypeError(f"{place} is a {type(value).__module__}.{type(value).__qualname__}, which has no form in JSON")


def from_plain(value: Any) -> Any:
    """What `to_plain` was given (a frozen set as a set, a named tuple as a tuple)."""
    if isinstance(value, list):
        return [from_plain(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((mark, inner),) = value.items()
        if mark in _MARKS:
            return _MARKS[mark](inner)
    return {key: from_plain(inner) for key, inner in value.items()}


_MARKS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "$tuple": lambda items: tuple(from_plain(item) for item in items),
        "$set": lambda items: {from_plain(item) for item in items},
        "$map": lambda pairs: {from_plain(key): from_plain(value) for key, value in pairs},
        "$fraction": Fraction,
    }
)
