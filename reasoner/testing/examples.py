"""Arguments that a JSON schema of a tool allows: ordinary ones and odd ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasoner.testing.checklist import MEGABYTE, UNICODE

_VALUES: Mapping[str, tuple[Any, ...]] = {
    "string": ("1 + 1", "", UNICODE, "x" * MEGABYTE),
    "integer": (1, 0, -1, 10**30),
    "number": (1.5, 0.0, -1e300),
    "boolean": (True, False),
    "array": ([],),
    "object": ({},),
    "null": (None,),
}


def example_arguments(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Some arguments that fit: every argument takes its values in turn, as many times as the one with the most has.

    What a schema says by reference, patterns and bounds is not looked at: a call that does not fit is refused in words.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    values = {name: _values(property_) for name, property_ in properties.items()}
    count = max((len(value) for value in values.values()), default=1)
    return [{name: value[at % len(value)] for name, value in values.items()} for at in range(count)]


def _values(schema: Mapping[str, Any]) -> tuple[Any, ...]:
    if "enum" in schema:
        return tuple(schema["enum"])
    if "const" in schema:
        return (schema["const"],)
    for option in schema.get("anyOf", ()):
        return _values(option)
    return _VALUES.get(schema.get("type", "string"), ("1",))
