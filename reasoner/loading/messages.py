"""Pydantic's errors as messages for a user: key, value, where it came from, what is allowed, the nearest valid name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reasoner.errors import nearest
from reasoner.loading.introspection import Path, allows_none, choices_of, document_of, keys_of, kinds_of, last_parts
from reasoner.loading.layers import Leaves, entries, entry_key
from reasoner.loading.other_names import removed, renamed

_KEY = re.compile(r"[\w+>-]+(?:\.[\w+>-]+)*")
"""a term may be called `reinforce++` or `raft->grpo`"""
_WANTED = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text (in quotes)",
    "bool_type": "must be true or false",
    "list_type": "must be a list, for example [1, 2]",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
TERMS: Path = ("gro", "terms")
_TABLE = {"model_type", "model_attributes_type", "dataclass_type", "dict_type"}
_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}


def explain(error: ValidationError, leaves: Leaves) -> str:
    """One line per error; keys that are no longer there for the same reason are in one."""
    lines: list[str] = []
    gone: dict[str, list[Path]] = {}
    for detail in error.errors():
        path = _path(detail["loc"], leaves)
        advice = removed(path) if detail["type"] in _UNKNOWN else ""
        if advice:
            gone.setdefault(advice, []).append(path)
        else:
            lines.append(_line(detail, path, leaves))
    return "\n".join([*lines, *(_removal_advice(paths, advice, leaves) for advice, paths in gone.items())])


def show_key(path: Path) -> str:
    """The key as it is written after `--set`."""
    return ".".join(path)


def show_value(value: Any) -> str:
    """The value as TOML spells it (`none` for None)."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _removal_advice(paths: Sequence[Path], advice: str, leaves: Leaves) -> str:
    origins = dict.fromkeys(leaves[path].origin for path in paths if path in leaves)
    where = f" ({', '.join(origins)})" if origins else ""
    return f"{', '.join(map(show_key, paths))}{where}: no longer there, {advice}."


def _line(detail: ErrorDetails, path: Path, leaves: Leaves) -> str:
    key, kind = show_key(path), detail["type"]
    if kind == "missing":
        document = document_of(path)
        return f"{key} is needed and not set." + (f" {document}" if document else "")
    if kind == "value_error":
        return _contradiction(path, str(detail["ctx"]["error"]), leaves)
    if kind == "union_tag_not_found":
        return f"{key}.kind is needed and not set{_origin(path, leaves)}. {_allowed_values((*path, 'kind'), None)}"
    if kind == "union_tag_invalid":
        path = (*path, "kind")
        key, value = show_key(path), detail["ctx"]["tag"]
        return f"{key} = {show_value(value)}{_origin(path, leaves)}: {_allowed_values(path, value)}"
    value = "" if isinstance(detail["input"], dict) else f" = {show_value(detail['input'])}"
    return f"{key}{value}{_origin(path, leaves)}: {_complaint(detail, path, leaves)}"


def _complaint(detail: ErrorDetails, path: Path, leaves: Leaves) -> str:
    kind = detail["type"]
    or_none = ", or none" if allows_none(path) else ""
    if kind in _UNKNOWN:
        return _unknown(path, leaves)
    if kind == "literal_error":
        return _allowed_values(path, detail["input"])
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {detail['ctx'][name]}{or_none}."
    if kind in _TABLE:
        keys = keys_of(path)
        return "must be a table" + (f" with the keys {', '.join(keys)}." if keys else ".")
    return f"{_WANTED.get(kind, detail['msg'])}{or_none}."


def _unknown(path: Path, leaves: Leaves) -> str:
    table, name = path[:-1], path[-1]
    if table == TERMS[:-1] and name in (keys_of((*TERMS, "NAME")) or ()):
        terms = dict.fromkeys(other[2] for other in leaves if other[:2] == TERMS and len(other) > 2) or ("NAME",)
        return f"unknown key. It belongs into a term: {' or '.join(show_key((*TERMS, term, name)) for term in terms)}."
    chosen = leaves.get((*table, "kind"))
    keys = list(keys_of(table, chosen.value if chosen else None) or ())
    place = f"[{show_key(table)}]" if table else "The top level"
    with_kind = f" with kind = {show_value(chosen.value)}" if chosen else ""
    whole = next((other for other in leaves if other[: len(path)] == path), path)
    hint = _with_term(renamed(whole, last_parts()), path, leaves) or nearest(name, keys)
    return f"unknown key.{hint} {place}{with_kind} has: {', '.join(keys)}."


def _with_term(hint: str, path: Path, leaves: Leaves) -> str:
    """With the term's name in the place of NAME, where there is but one that can be meant."""
    terms = {other[2] for other in ((path,) if path[:2] == TERMS else leaves) if other[:2] == TERMS and len(other) > 2}
    return hint.replace("gro.terms.NAME", show_key((*TERMS, *terms))) if len(terms) == 1 else hint


def _allowed_values(path: Path, value: Any) -> str:
    choices = (kinds_of(path[:-1]) if path[-1] == "kind" else ()) or choices_of(path)
    hint = nearest(value, choices) if isinstance(value, str) else ""
    return f"must be one of {', '.join(choices)}.{hint}"


def _contradiction(path: Path, message: str, leaves: Leaves) -> str:
    """A validator's own message, with the section that it speaks of and where the values that it names came from."""
    named = {}
    for match in _KEY.findall(message):
        for full in (tuple(match.split(".")), (*path, *match.split("."))):
            if full in leaves:
                named[show_key(full)] = leaves[full].origin
    section = f"[{show_key(path)}] " if path else ""
    origins = "; ".join(f"{key}: {origin}" for key, origin in named.items())
    return f"{section}{message}." + (f" ({origins})" if origins else "")


def _origin(path: Path, leaves: Leaves) -> str:
    below = [leaf.origin for other, leaf in leaves.items() if other[: len(path)] == path]
    above = [leaves[path[:length]].origin for length in range(len(path), 0, -1) if path[:length] in leaves]
    origins = list(dict.fromkeys([*below, *above]))
    return f" ({', '.join(origins)})" if origins else ""


def _path(loc: tuple[int | str, ...], leaves: Leaves) -> Path:
    """Pydantic's location as a key: list entries by their name, without the names of union variants."""
    path: Path = ()
    variant_of: Path | None = None
    for part in loc:
        if isinstance(part, int) and entry_key(path):
            path = (*path, entries(leaves, path)[part])
        elif path[:1] == ("gro",) and path != variant_of and part in kinds_of(path):
            variant_of = path  # pydantic names the variant of a union; a key of it may be called the same (`metric`)
        else:
            path = (*path, str(part))
    return path
