"""The configuration reference: a section per table of `reasoner.config`, a row per key."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reasoner.config import Config
from reasoner.loading.messages import show_value
from reasoner.plugins.options import field_documents

PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text"}
BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}


def configuration() -> str:
    """Every table with what it is for, and its keys with what they take."""
    return "\n".join(map(_section, _tables(Config)))


def _tables(table: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """`table` and those inside, each once, in the order of the file."""
    tables: dict[type[BaseModel], None] = {table: None}
    for field in table.model_fields.values():
        for item in classes_in(field.annotation):
            if issubclass(item, BaseModel):
                tables |= dict.fromkeys(_tables(item))
    return iter(tables)


def classes_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation names, those inside unions and lists included."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from classes_in(argument)


def _section(table: type[BaseModel]) -> str:
    heading, _, text = " ".join((inspect.getdoc(table) or "").split()).partition(": ")
    if not text:
        heading, text = "Top level", heading
    meanings = field_documents(table)
    rows = [
        f"| `{name}` | {_takes(field)} | {_default(field)} | {_cell(meanings.get(name, ''))} |"
        for name, field in _own(table)
    ]
    header = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {heading}", "", text[:1].upper() + text[1:], "", *header, *rows, ""])


def _own(table: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The keys that are no tables of their own."""
    for name, field in table.model_fields.items():
        if not any(issubclass(item, BaseModel) for item in classes_in(field.annotation)):
            yield name, field


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _takes(field: FieldInfo) -> str:
    options = _options(field.annotation)
    bounds = "".join(_bounds(field.metadata + [item for option in options for item in _metadata(option)]))
    names = [_named(option) for option in options if option is not NoneType]
    shown = ", ".join(dict.fromkeys(names)) + bounds
    return f"{shown}, or none" if NoneType in options else shown


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _metadata(annotation: Any) -> list[Any]:
    if get_origin(annotation) is not Annotated:
        return []
    return [item for field in get_args(annotation)[1:] for item in getattr(field, "metadata", [field])]


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for item in metadata:
        for name, word in BOUNDS.items():
            if (value := getattr(item, name, None)) is not None:
                yield f", {word} {value:g}"


def _named(annotation: Any) -> str:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    origin = get_origin(bare)
    if bare in PLAIN:
        return PLAIN[bare]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(bare))
    if origin in (list, tuple):
        return "list"
    return "table" if origin is dict else "table, see [gro.md](gro.md)"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or type(value).__module__.startswith("reasoner."):
        return ""
    return f"`{show_value(value)}`"
