"""Rows of a data source: a JSON lines file, a hub data set, or a generator.

    rows --columns--> renamed --shuffle, limit--> chosen

Each row comes with its place (a file's line, a row number), so that whoever finds it wrong can say where it is.
"""

from __future__ import annotations

import gzip
import inspect
import json
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from pydantic import TypeAdapter, ValidationError

from reasoner.config import SourceConfig
from reasoner.errors import ConfigError, DataError, MissingDependencyError, nearest
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
        seed: the run's seed, for the shuffle.
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
    if source.path is not None:
        return _file_rows(Path(source.path).expanduser())
    if source.hub is not None:
        return _hub_rows(source, section)
    return _generated_rows(source, generators, section)


def stem_of(source: SourceConfig) -> str:
    """The part of a problem's id before the row number: `gsm8k-test`."""
    if source.path is not None:
        return Path(source.path).name.removesuffix(".gz").removesuffix(".jsonl")
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
    if source.generator not in generators:
        raise ConfigError(
            f"{section}.generator = {source.generator!r}: there is no such generator."
            f"{nearest(source.generator, generators)} Registered: {', '.join(sorted(generators)) or 'none'}."
        )
    function = generators[source.generator]
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
                f"It has: {field_names(row.fields)}."
            )
        fields[name] = row.fields[column]
    return Row(row.number, row.place, fields)


def _file_rows(path: Path) -> Iterator[Row]:
    number = 0
    for line, text in _lines(path):
        if not text.strip():
            continue
        place = f"{path}, line {line}"
        try:
            row = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise DataError(f"{place}: not JSON: {error}. The file must hold one JSON object per line.") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: a JSON object is needed, got {type(row).__name__} {text.strip()[:60]!r}.")
        yield Row(number, place, row)
        number += 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path}: a JSON lines file is needed (.jsonl, .jsonl.gz).")
    line = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, 1):
                yield line, text
    except FileNotFoundError:
        raise DataError(f"there is no data file {path.absolute()}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {line + 1} or soon after: not UTF-8 text.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {line}: {error}.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _hub_rows(source: SourceConfig, section: str) -> Iterator[Row]:
    instead = (
        f"Pass a local file instead: --set {section}.path=FILE.jsonl (fields with other names: "
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
        yield _plain_row(number, f"{source.hub} ({source.split}), row {number}", row)


def _generated_rows(source: SourceConfig, generators: Mapping[str, Generator], section: str) -> Iterator[Row]:
    check_generator(source, generators, section)
    name, count = str(source.generator), source.limit or 0
    number = -1
    for number, row in enumerate(generators[name](count, source.seed, **source.options)):
        yield _plain_row(number, f"generator {name}, row {number}", row)
    if number + 1 != count:
        raise DataError(f"generator {name}: asked for {count} problems, got {number + 1}; lower {section}.limit.")


def _plain_row(number: int, place: str, row: Mapping[str, Any]) -> Row:
    for field, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{place}, field {field!r}: not a JSON value: {error}.") from error
    return Row(number, place, dict(row))
