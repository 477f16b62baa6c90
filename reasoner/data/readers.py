"""Rows of a data file, by its suffix.

    .jsonl      one JSON object per line
    .json       a list of objects, or an object with such a list under `data`
    .csv        separated by commas, the names in the first line; every value is text
    .tsv        the same, separated by tabs
    .parquet    a table; nested columns become lists and objects

All but the last may be compressed (`.jsonl.gz`). All but `.json` are read as a stream. Values are JSON values: of
Parquet, dates, times and decimals become text; bytes and NaN are refused, as JSON has neither. Half a surrogate pair,
which JSON can spell (`"\\ud800"`) and no tokenizer or file takes, becomes its escape as text.

In the place of a row that is malformed by itself stands a `RowError`, and reading goes on after it.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from reasoner.data.row_report import RowError
from reasoner.errors import DataError, nearest
from reasoner.io.parsing import MAX_DEPTH, is_deep, parse_json
from reasoner.io.safe_text import storable

MAX_LINE = 2**26
"""characters; a few kilobytes of a compressed file can stand for gigabytes"""
MAX_CHARACTERS = 2**30
"""of a .json file, which is read as a whole"""
Placed = tuple[str, Mapping[str, Any] | RowError]
"""where a row is (`train.jsonl, line 18`), and its fields or what is wrong with it"""


def read_file(path: Path) -> Iterator[Placed]:
    """The rows of a file in its own order, each with its place for messages.

    Raises:
        DataError: there is no such file, its suffix is none of those, it cannot be read or is malformed as a whole; the
            message has the line (of .json and .parquet: the row, counted from 0).
    """
    text = path.name.removesuffix(".gz")
    suffix = next((known for known in READERS if text.endswith(known)), None)
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the files in it, for example {path / '*.jsonl'}.")
    if suffix is None or (suffix == ".parquet" and text != path.name):
        raise DataError(
            f"{path}: a data file ends in {', '.join(READERS)} (or .gz after all but the last)."
            f"{nearest(Path(text).suffix, READERS)}"
        )
    if not path.is_file():
        name = Path(path.name)
        hint = " What a task file names is relative to that file." if name.is_file() and name != path else ""
        raise DataError(f"there is no data file {path.absolute()}.{hint}")
    return READERS[suffix](path)


def stem_of_file(name: str) -> str:
    """The name without what says how it is written: `train` of `train.jsonl.gz`."""
    stem = name.removesuffix(".gz")
    return next((stem.removesuffix(known) for known in READERS if stem.endswith(known)), stem)


def plain(place: str, fields: Mapping[str, Any]) -> dict[str, Any] | RowError:
    """The fields as JSON values, or which of them is none."""
    values = {}
    for field, value in fields.items():
        if is_deep(value):
            complaint = f"nested more than {MAX_DEPTH} levels deep. Leave the field out."
            return RowError(place, complaint, f"nested too deeply in {field!r}", where=f"field {field!r}")
        try:
            values[storable(field)] = storable(json.loads(json.dumps(value, default=_as_text, allow_nan=False)))
        except (TypeError, ValueError) as error:
            complaint = f"not a JSON value: {error}. Leave the field out."
            return RowError(place, complaint, f"with no JSON value in {field!r}", where=f"field {field!r}")
    return values


def _as_text(value: object) -> str:
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is none")


def _jsonl(path: Path) -> Iterator[Placed]:
    for line, text in _lines(path):
        if not text.strip():
            continue
        place = f"{path}, line {line}"
        try:
            yield place, _object(place, parse_json(text))
        except ValueError as error:
            complaint = f"{error}. The file must hold one JSON object per line."
            yield place, RowError(place, complaint, "that are no JSON object")


def _json(path: Path) -> Iterator[Placed]:
    lines, size = [], 0
    for _, line in _lines(path, MAX_CHARACTERS):
        lines.append(line)
        size += len(line)
        if size > MAX_CHARACTERS:
            raise DataError(
                f"{path}: more than {MAX_CHARACTERS:,} characters; write it as .jsonl, one object per line."
            )
    rows, look = _json_rows(path, "".join(lines))
    if isinstance(rows, dict):
        rows = rows.get("data", rows)
    if not isinstance(rows, list):
        got = (
            f"an object with {', '.join(map(repr, rows)) or 'nothing in it'}" if isinstance(rows, dict) else repr(rows)
        )
        raise DataError(f"{path}: a list of objects is needed, or an object with one under 'data'; got {got[:80]}.")
    for number, row in enumerate(rows):
        place = f"{path}, row {number}"
        yield place, plain(place, row) if look and isinstance(row, dict) else _object(place, row)


def _json_rows(path: Path, text: str) -> tuple[Any, bool]:
    """What the file holds, and whether some value in it is none that JSON has or nested too deeply: the row that it is
    in has yet to be found."""
    try:
        return (parse_json(text) if text.strip() else []), False
    except ValueError as error:
        try:
            return json.loads(text), True
        except (ValueError, RecursionError):
            hint = " If it holds one object per line, name it .jsonl." if "Extra data" in str(error) else ""
            raise DataError(f"{path}: {error}.{hint}") from None


def _csv(path: Path, delimiter: str = ",") -> Iterator[Placed]:
    csv.field_size_limit(MAX_LINE)  # a long solution is no mistake
    reader = csv.reader((text for _, text in _lines(path)), strict=True, delimiter=delimiter)
    names: list[str] = []
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{place}: not CSV: {error}.") from None
        if values is None:
            return
        if not names:
            names = _names(place, values, delimiter)
        elif len(values) == len(names):
            yield place, dict(zip(names, values, strict=True))
        elif values:
            complaint = f"{len(values)} values for the {len(names)} columns {', '.join(names)}."
            yield place, RowError(place, complaint, f"without {len(names)} values")


def _names(place: str, names: list[str], delimiter: str) -> list[str]:
    twice = [name for name in names if names.count(name) > 1]
    if twice or not all(name.strip() for name in names):
        wrong = f"{twice[0]!r} is there twice" if twice else "a name is empty"
        raise DataError(f"{place}: the first line must name the columns, and {wrong}.")
    if len(names) == 1 and any(other in names[0] for other in ",;\t" if other != delimiter):
        by = "commas (or tabs, in a .tsv file)" if delimiter == "," else "tabs (or commas, in a .csv file)"
        raise DataError(f"{place}: the columns must be separated by {by}, got {names[0][:60]!r}.")
    return names


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    place = f"{path}, row {number}"
                    yield place, plain(place, row)
                    number += 1
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as Parquet after {number} rows: {error}") from error


READERS: Mapping[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
}
"""suffix -> reader"""


def _lines(path: Path, longest: int = MAX_LINE) -> Iterator[tuple[int, str]]:
    """The lines of a text file, counted from 1; a byte order mark at its start is skipped."""
    line = 0
    try:
        with _open_text(path) as file:
            while text := file.readline(longest + 1):
                line += 1
                if len(text) > longest:
                    raise DataError(f"{path}, line {line}: longer than {longest:,} characters.")
                yield line, text
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {line + 1} or soon after: not UTF-8 text.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {line}: {error}.") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _object(place: str, row: Any) -> Mapping[str, Any] | RowError:
    if not isinstance(row, dict):
        shown = "" if is_deep(row) else f" {json.dumps(row)[:60]!r}"
        complaint = f"a JSON object is needed, got {type(row).__name__}{shown}."
        return RowError(place, complaint, "that are no JSON object")
    return storable(row)
