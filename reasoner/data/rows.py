"""Rows of a data source: files, a hub data set, or a generator.

Each row comes with its place (a file's line, a row number), so that whoever finds it wrong can say where it is.
"""

from __future__ import annotations

import glob
import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from reasoner.config import SourceConfig
from reasoner.data.readers import Placed, plain, read_file, stem_of_file
from reasoner.data.row_report import RowError
from reasoner.errors import ConfigError, DataError, MissingDependencyError, nearest
from reasoner.io.serialization import shortened
from reasoner.models.hub import hub_reachable
from reasoner.plugins.hookspecs import Generator


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it is."""

    index: int
    """from 0, in the order of the source, over all its files"""
    id: str
    """`train:17`: of the problem that it becomes, whatever the order and number of those that are used"""
    place: str
    """`train.jsonl, line 18`, for messages"""
    fields: Mapping[str, Any]


def read_rows(
    source: SourceConfig, generators: Mapping[str, Generator], section: str
) -> Iterator[tuple[Row, RowError | None]]:
    """All rows of the source (a generator: `limit` of them) in its own order, each with what is wrong with it, if it is
    malformed by itself: it has no fields then.

    Args:
        section: the configuration section that describes the source (`data.train`), for messages.

    Raises:
        DataError: the source is missing, unreachable, empty, or malformed as a whole.
        ConfigError: there is no such generator, or it has no such option.
    """
    index = -1
    for stem, placed in _parts(source, generators, section):
        for number, (place, fields) in enumerate(placed):
            index += 1
            if isinstance(fields, RowError):
                yield Row(index, f"{stem}:{number}", place, {}), fields
            else:
                yield Row(index, f"{stem}:{number}", place, fields), None
    if index < 0:
        raise DataError(f"{section}: {describe_origin(source)} holds no rows.")


def describe_origin(source: SourceConfig) -> str:
    """The file, the files, the data set or the generator that the source names."""
    if isinstance(source.path, list):
        return ", ".join(source.path[:3]) + (f" and {len(source.path) - 3} more" if len(source.path) > 3 else "")
    return source.path or source.hub or str(source.generator)


def _parts(
    source: SourceConfig, generators: Mapping[str, Generator], section: str
) -> Iterator[tuple[str, Iterator[Placed]]]:
    """The files of a source, or all of it, each with the part of its rows' ids before the number: `gsm8k-test`."""
    if source.path is not None:
        files = _files([source.path] if isinstance(source.path, str) else source.path, section)
        yield from ((stem, read_file(file)) for stem, file in zip(_stems(files), files, strict=True))
    elif source.hub is not None:
        yield f"{source.hub.rpartition('/')[2]}-{source.split}", _hub_rows(source, section)
    else:
        yield f"{source.generator}-{source.seed}", _generated_rows(source, generators, section)


def _files(paths: Sequence[str], section: str) -> list[Path]:
    """The files that paths and patterns name, those of a pattern in the order of their names."""
    files: list[Path] = []
    for path in paths:
        file = Path(path).expanduser()
        if glob.has_magic(path) and not file.exists():
            matches = sorted(map(Path, glob.glob(str(file), recursive=True)))  # noqa: PTH207 (absolute patterns, too)
            if not matches:
                raise DataError(f"{section}.path: no file matches {path} (in {Path.cwd()}).")
            files += matches
        else:
            files.append(file)
    if twice := [file for file, count in Counter(file.resolve() for file in files).items() if count > 1]:
        raise DataError(f"{section}.path names {twice[0]} twice; name each file once.")
    return files


def _stems(files: Sequence[Path]) -> list[str]:
    """A name for each file, from its own; with folders where several files have the same."""
    stems = [stem_of_file(file.name) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    common = Path(os.path.commonpath([file.absolute().parent for file in files]))
    relative = [file.absolute().relative_to(common) for file in files]
    stems = [str(file.with_name(stem)) for file, stem in zip(relative, stems, strict=True)]
    return stems if len(set(stems)) == len(stems) else list(map(str, relative))  # train.jsonl beside train.csv


def text_field(row: Row, name: str, section: str) -> str:
    """The text of a field that the row must have.

    Raises:
        RowError: it is missing, empty, or neither text nor a number.
    """
    if name not in row.fields:
        without = " A verifier that needs none says so: @reward(needs_answer=False)." if name == "answer" else ""
        raise RowError(
            row.place,
            f"the field {name!r} is missing.{nearest(name, row.fields)} The row has: {field_names(row.fields)}. If it "
            f"has another name, map it: --set {section}.columns.{name}=FIELD.{without}",
            f"without the field {name!r}",
        )
    value, where = row.fields[name], f"field {name!r}"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        inside = f" To take a part of it: --set '{section}.columns.{name}={{{{ {name}... }}}}'." if value else ""
        complaint = f"text or a number is needed, got {shortened(value)}.{inside}"
        raise RowError(row.place, complaint, f"whose field {name!r} is neither text nor a number", where=where)
    if not str(value).strip():
        raise RowError(row.place, "it is empty.", f"with an empty field {name!r}", where=where)
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
