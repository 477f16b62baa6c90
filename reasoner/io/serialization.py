"""Records as JSON and JSON lines, without loss: what is read back is checked against the record's type hints.

JSON has no NaN and no infinity, so they are refused. Free-form mappings hold JSON values only; a tuple in them is read
back as a list, as JSON has it. Text is UTF-8, which has no half of a surrogate pair: its escape is written in its place
(`safe_text.storable`). Files may have been written by anybody: only regular ones of bounded size are read
(`reasoner.io.bounded_files`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Iterable
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from reasoner.errors import DataError
from reasoner.io.atomic_files import replacing
from reasoner.io.bounded_files import JSONL_BYTES, read_lines
from reasoner.io.safe_text import storable_json
from reasoner.io.token_array import TokenArray

R = TypeVar("R")


def to_json(record: Any, indent: int | None = None) -> str:
    """JSON for a dataclass or any JSON value: one line, or with `indent` spaces for each level.

    Raises:
        DataError: a value that JSON does not have (NaN, infinity, a set).
    """
    try:
        text = json.dumps(record, default=_members, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"a {type(record).__name__} cannot be written as JSON: {error}") from error
    return storable_json(text)


def from_json(text: str | bytes, type_: type[R]) -> R:
    """The record that `to_json` wrote.

    Raises:
        DataError: malformed JSON, or a field that is missing, unknown or of the wrong type; the message names it.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        # The tuple lets `extra` and `strict` reach the plain dataclasses inside, which know nothing of pydantic.
        record: R = _adapter(cast(Hashable, type_)).validate_json(b"[" + raw + b"]")[0]
    except ValidationError as error:
        raise DataError(first_mistake(error, 1)) from error
    return record


def first_mistake(error: ValidationError, skipped: int = 0) -> str:
    """`field a.b: what is wrong, got 3`, without the `skipped` first parts of the place."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][skipped:])
    return f"{f'field {where}: ' if where else ''}{first['msg']}, got {shortened(first['input'])}"


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write one JSON object per line in the place of `path` (atomically).

    Raises:
        DataError: a record that JSON cannot hold; the message names its line.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, record in enumerate(records, 1):
            try:
                file.write(to_json(record) + "\n")
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from error


def read_jsonl(path: Path, type_: type[R], *, appended: bool = False, most: int = JSONL_BYTES) -> list[R]:
    """All records of a JSON lines file.

    Args:
        appended: it was written line by line (`atomic.append_line`): a last line that a kill cut is left out.
        most: bytes of the file.

    Raises:
        DataError: no such file, it cannot be read, or a line that is not such a record; the message names the line and
            the field.
    """
    records = []
    for number, line in enumerate(read_lines(path, most), 1):
        if appended and not line.endswith(b"\n"):
            break
        try:
            records.append(from_json(line, type_))
        except DataError as error:
            raise DataError(f"{path}, line {number}, {type_.__name__}: {error}") from error
    return records


@cache
def _adapter(type_: Hashable) -> TypeAdapter[Any]:
    one: Any = GenericAlias(tuple, (type_,))
    return TypeAdapter(one, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def _members(record: Any) -> Any:
    if isinstance(record, TokenArray):
        return record.tolist()
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{type(record).__name__} is not a JSON value")
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def shortened(value: Any) -> str:
    """A value as an error message quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
