"""Rows of a data source: a file, a hub data set, or a generator.

    rows --columns--> renamed --shuffle, limit--> chosen

Each row comes with its place (a file's line, a row number), so that whoever finds it wrong can say where it is.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from reasoner.config import SourceConfig
from reasoner.errors import ConfigError, DataError, MissingDependencyError, nearest
from reasoner.files import Placed, plain, read_file, stem_of_file
from reasoner.hookspecs import Generator
from reasoner.hub import hub_reachable


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it is."""

    number: int
    """from 0, in the order of the source"""
    place: str
    """`train.jsonl, line 18`, for messages"""
    fields: Mapping[str, Any]


def load_rows(source: SourceConfig, generators: Mapping[str, Generator], seed: int, section: str) -> list[Row]:
    """The rows that a run uses: with the names of `columns`, shuffled, the first `limit` of them.

    Args:
        seed: for the shuffle.
        section: the configuration section that describes the source (`data.train`), for messages.

    Raises:
        DataError: the source is missing, unreachable, empty or malformed.
        ConfigError: there is no such generator, or it has no such option.
    """
    rows = [_renamed(row, source.columns, section) for row in read_rows(source, generators, section)]
    if not rows:
        raise DataError(f"{section}: {source.path or source.hub or source.generator} holds no rows.")
    if source.shuffle:
        random.Random(seed).shuffle(rows)
    return rows[: source.limit]


def read_rows(source: SourceConfig, generators: Mapping[str, Generator], section: str) -> Iterator[Row]:
    """All rows of the source (a generator: `limit` of them), in its own order.

    Args:
        section: the configuration section that describes the source (`data.train`), for messages.

    Raises:
        DataError: the source is missing, unreachable or malformed.
        ConfigError: there is no such generator, or it has no such option.
    """
    placed = _placed_rows(source, generators, section)
    return (Row(number, place, fields) for number, (place, fields) in enumerate(placed))


def _placed_rows(source: SourceConfig, generators: Mapping[str, Generator], section: str) -> Iterator[Placed]:
    if source.path is not None:
        return read_file(Path(source.path).expanduser())
    if source.hub is not None:
        return _hub_rows(source, section)
    return _generated_rows(source, generators, section)


def stem_of(source: SourceConfig) -> str:
    """The part of a problem's id before the row number: `gsm8k-test`."""
    if source.path is not None:
        return stem_of_file(Path(source.path).name)
    if source.hub is not None:
        return f"{source.hub.rpartition('/')[2]}-{source.split}"
    return f"{source.generator}-{source.seed}"


def text_field(row: Row, name: str, section: str) -> str:
    """The text of a field that the row must have.

    Raises:
        DataError: it is missing, empty, or neither text nor a number.
    """
    if name not in row.fields:
        raise DataError(
            f"{row.place}: the field {name!r} is missing. The row has: {field_names(row.fields)}. "
            f"If it has another name, map it: --set {section}.columns.{name}=FIELD."
        )
    value = row.fields[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{row.place}, field {name!r}: text or a number is needed, got {value!r}.")
    if not str(value).strip():
        raise DataError(f"{row.place}, field {name!r}: it is empty.")
    return str(value)


def field_names(fields: Mapping[str, Any]) -> str:
    """The names of a row's fields, for messages."""
    return ", ".join(fields) or "no fields"


def check_generator(source: SourceConfig, generators: Mapping[str, Generator], section: str) -> None:
    """Refuse a generator that is not registered and options that it does not have.

    Raises:
        ConfigError: with the key, the value and what is allowed.
    """
    if source.generator is None:
        return
    try:
        function = generators[source.generator]
    except KeyError:
        raise ConfigError(
            f"{section}.generator = {source.generator!r}: there is no such generator."
            f"{nearest(source.generator, generators)} Registered: {', '.join(sorted(generators)) or 'none'}."
        ) from None
    hints = get_type_hints(function)
    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key, value in source.options.items():
        if key not in keywords:
            raise ConfigError(
                f"{section}.options.{key}: generator {source.generator!r} has no such option.{nearest(key, keywords)} "
                f"It has: {', '.join(keywords) or 'none'}."
            )
        try:
            TypeAdapter(hints.get(key, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{section}.options.{key} = {value!r}: {error.errors()[0]['msg']}.") from error


def _renamed(row: Row, columns: Mapping[str, str], section: str) -> Row:
    fields = dict(row.fields)
    for name, column in columns.items():
        if column not in row.fields:
            raise DataError(
                f"{row.place}: {section}.columns.{name} names the field {column!r}, which the row does not have. "
                f"It has: {field_names(row.fields)}. To take the names as they are: --set '{section}.columns={{}}'."
            )
        fields[name] = row.fields[column]
    return Row(row.number, row.place, fields)


def _hub_rows(source: SourceConfig, section: str) -> Iterator[Placed]:
    instead = (
        f"Pass a local file instead: --set {section}.path=FILE (fields with other names: "
        f"--set {section}.columns.NAME=FIELD)."
    )
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{section}.hub = {source.hub!r} needs datasets; install it with `pip install 'reasoner[data]'`. {instead}"
        ) from error
    online = hub_reachable()
    datasets.config.HF_HUB_OFFLINE = not online
    try:
        loaded = datasets.load_dataset(source.hub, split=source.split, **source.options)
    except (
        Exception
    ) as error:  # it raises its own types, ValueError, OSError and more: all mean that the data is not there
        reason = (
            f"{type(error).__name__}: {error}"
            if online
            else "the Hugging Face hub cannot be reached, and it is not cached"
        )
        raise DataError(f"{section}.hub = {source.hub!r}, split {source.split!r}: {reason}. {instead}") from error
    for number, row in enumerate(loaded):
        place = f"{source.hub} ({source.split}), row {number}"
        yield place, plain(place, row)


def _generated_rows(source: SourceConfig, generators: Mapping[str, Generator], section: str) -> Iterator[Placed]:
    check_generator(source, generators, section)
    name, count = str(source.generator), source.limit or 0
    number = -1
    for number, row in enumerate(generators[name](count, source.seed, **source.options)):
        place = f"generator {name}, row {number}"
        yield place, plain(place, row)
    if number + 1 != count:
        raise DataError(f"generator {name}: asked for {count} problems, got {number + 1}; lower {section}.limit.")
