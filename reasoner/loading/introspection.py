"""What the configuration may contain, read off `reasoner.config`: the keys of a table, what a key allows."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from reasoner.config import Config
from reasoner.plugins.options import field_documents

Path = tuple[str, ...]
"""the parts of a dotted key: `("gro", "terms", "grpo", "weight")`; an entry of `[[rewards]]` is named by its source"""


def keys_of(path: Path, kind: str | None = None) -> Mapping[str, Any] | None:
    """Key -> annotation of the table at `path`; None when its keys are free or it is no table.

    Where the table's `kind` decides (`gro.terms.grpo.link`), `kind` picks the variant; without one, the keys of all
    variants.
    """
    annotation = annotation_at(path)
    return None if annotation is None else _fields(annotation, kind)


@cache  # loading asks for every key several times
def annotation_at(path: Path) -> Any | None:
    """The annotation of the value at `path`; None when there is no such key or it lies in a free table."""
    annotation: Any = Config
    for part in path:
        if (entry := _entry(annotation)) is not None:
            annotation = entry  # `part` names the entry
            continue
        fields = _fields(annotation, None) or {}
        if part not in fields:
            return None
        annotation = fields[part]
    return annotation


def allows_none(path: Path) -> bool:
    """Whether the key at `path` may be none (off, not set)."""
    return type(None) in get_args(annotation_at(path))


def is_section(path: Path) -> bool:
    """Whether a table with fixed keys is at `path`."""
    return keys_of(path) is not None


def is_text(path: Path) -> bool:
    """Whether the key at `path` takes any text."""
    return any(option is str for option in _options(annotation_at(path)))


def is_list(path: Path) -> bool:
    """Whether the key at `path` takes a list."""
    return any(get_origin(_bare(option)) is list for option in _options(annotation_at(path)))


def is_one_value(path: Path) -> bool:
    """Whether the key at `path` takes a table whose keys are the user's and belong together: `columns`, `options`."""
    bare = _bare(annotation_at(path))
    if get_origin(bare) is not dict:
        return False
    value = get_args(bare)[1]
    return get_origin(value) is not dict and not (isinstance(value, type) and issubclass(value, BaseModel))


def choices_of(path: Path) -> list[str]:
    """The values that the key at `path` allows, when they are a fixed set of names."""
    annotations = [option for option in _options(annotation_at(path)) if option is not type(None)]
    if len(annotations) != 1 or get_origin(annotations[0]) is not Literal:
        return []
    return [str(value) for value in get_args(annotations[0])]


def kinds_of(path: Path) -> list[str]:
    """The values of `kind` that the table at `path` allows."""
    return [
        str(value)
        for option in _options(annotation_at(path))
        if isinstance(option, type) and dataclasses.is_dataclass(option)
        for value in get_args(_bare(_hints(option)["kind"]))
    ]


@cache
def last_parts(path: Path = ()) -> frozenset[str]:
    """The last parts of all keys below a table, those of its tables included."""
    names = set()
    for name in keys_of(path) or ():
        inner = (*path, name, "NAME") if _entry(annotation_at((*path, name))) is not None else (*path, name)
        names |= {name, *last_parts(inner)}
    return frozenset(names)


def document_of(path: Path) -> str:
    """The docstring under the field, or nothing."""
    owner = _bare(annotation_at(path[:-1])) if path else None
    return field_documents(owner).get(path[-1], "") if isinstance(owner, type) and issubclass(owner, BaseModel) else ""


def _fields(annotation: Any, kind: str | None) -> Mapping[str, Any] | None:
    fields: dict[str, Any] = {}
    fixed = False
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            fixed = True
            fields |= {name: field.annotation for name, field in option.model_fields.items()}
        elif isinstance(option, type) and dataclasses.is_dataclass(option):
            fixed = True
            hints = _hints(option)
            if kind is None or kind in get_args(hints["kind"]):
                fields |= hints
    return fields if fixed else None


@cache
def _hints(choice: type) -> Mapping[str, Any]:
    """The annotations of a dataclass, evaluated once: it costs a millisecond, and every key of a term asks for them."""
    return get_type_hints(choice, include_extras=True)


def _entry(annotation: Any) -> Any | None:
    """The annotation of an entry of a list, or of a table of sections with free names; None for anything else."""
    bare = _bare(annotation)
    if get_origin(bare) is list:
        return get_args(bare)[0]
    value = get_args(bare)[1] if get_origin(bare) is dict else None
    return value if isinstance(value, type) and issubclass(value, BaseModel) else None


def _options(annotation: Any) -> tuple[Any, ...]:
    bare = _bare(annotation)
    return get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation
