"""Records as Parquet, without loss, with columns that come from their type hints.

    dataclass -> struct     tuple[T, ...] -> list             T | None -> nullable    Literal -> string
    int -> int64            float -> float64, bit for bit     Mapping[str, Any] -> JSON text (it has no fixed columns)
    tuple[A, B] -> struct of the fields 0 and 1               TokenArray -> list of its kind of number

Fields of the record and of records inside it are written and read as columns: what is there for every token goes from
memory to memory, and a `TokenArray` that is read is a part of its column.

NaN and infinity are kept in float fields. Mappings and texts are written as in JSON (`reasoner.io.serialization`). A
file may have been written by anybody: it must be a regular one, and unpacks to at most `UNPACKED` times its size.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasoner.errors import DataError, nearest
from reasoner.io.atomic_files import replacing
from reasoner.io.bounded_files import open_regular, parse_json
from reasoner.io.safe_text import storable, storable_json
from reasoner.io.serialization import shortened
from reasoner.io.token_array import Kind, TokenArray

R = TypeVar("R")

UNPACKED, UNPACKED_BYTES = 64, 2**30
"""how many times its own size a Parquet file may unpack to, and bytes that any may: ours hold log-probabilities, which
hardly pack at all"""
BATCH_ROWS = 1024
"""rows that are unpacked at once, at most"""


def write_parquet(path: Path, records: Sequence[R]) -> None:
    """Write one row per record in the place of `path` (atomically). No records: no type, so that is refused.

    Raises:
        DataError: a value that its column cannot hold; the message names the row and the field.
    """
    if not records:
        raise DataError(f"{path}: there is nothing to write, and no columns without a record")
    struct = _struct(type(records[0]))
    with replacing(path) as temporary:
        table = _table(path, records, struct)
        # texts repeat, those of a problem in every row; looking for equal log-probabilities takes longer than the rest
        texts = [column for name, child in struct.children.items() for column in _texts(name, child.type)]
        pq.write_table(table, temporary, compression="zstd", use_dictionary=texts)


def _texts(path: str, type_: pa.DataType) -> Iterator[str]:
    """The columns of text of a field, as Parquet names them."""
    if pa.types.is_struct(type_):
        for each in type_:
            yield from _texts(f"{path}.{each.name}", each.type)
    elif pa.types.is_list(type_):
        yield from _texts(f"{path}.list.element", type_.value_type)
    elif pa.types.is_string(type_):
        yield path


def unstorable(record: Any) -> str:
    """Why `write_parquet` refuses a record, with the field; empty: it does not."""
    return _first_bad([record], _struct(type(record))).removeprefix("row 1").lstrip(",: ")


def read_parquet(path: Path, type_: type[R], rows: Sequence[int] | None = None) -> list[R]:
    """The records of a Parquet file that `write_parquet` wrote: all, or those with these row numbers (from 0). A field
    without a column, in a file that was written before there was the field, has its default, as in JSON, also in a
    record inside another.

    Raises:
        DataError: no such file, cut short, other columns, or a value that the record refuses; names the row and field.
            It unpacks to more than a file of its size may.
    """
    struct = _struct(type_)
    wanted = None if rows is None else frozenset(rows)
    records: dict[int, R] = {}
    number = 0
    for batch in _batches(path, type_, struct, _schema(struct).names):
        here = [at for at in range(len(batch)) if wanted is None or number + at in wanted]
        chosen = batch if len(here) == len(batch) else batch.take(here)
        rows_of_batch = iter(_unpacked(path, chosen, type_, struct))
        for at in here:
            try:
                records[number + at] = next(rows_of_batch)
            except ValueError as error:
                raise DataError(f"{path}, row {number + at + 1}, {type_.__name__}: {error}") from error
        number += len(batch)
    if rows is None:
        return list(records.values())
    if missing := [row for row in rows if row not in records]:
        raise DataError(f"{path} has no row {missing[0] + 1}: it has {number}.")
    return [records[row] for row in rows]


def read_columns(path: Path, type_: type[Any], columns: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet file that `write_parquet` wrote (`response.token_ids`: of a record inside).

    Raises:
        DataError: as `read_parquet`.
    """
    batches = list(_batches(path, type_, _struct(type_), columns))
    return pa.Table.from_batches(batches) if batches else pa.table({})


def _batches(path: Path, type_: type[Any], struct: _Column, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a few at a time, with an end where it holds more than a file of its size does."""
    with open_regular(path) as source:
        size = os.fstat(source.fileno()).st_size
        most = max(UNPACKED_BYTES, UNPACKED * size)
        try:
            # No `read_table`: it would take parts of the path ("step=3") for columns.
            with pq.ParquetFile(source) as file:
                _check_columns(path, file.schema_arrow, type_, struct)
                rows = _batch_rows(path, file.metadata, most)
                unpacked = 0
                # threads for a handful of rows cost more than they save, on a busy machine many times as much
                threads = file.metadata.num_rows > BATCH_ROWS
                for batch in file.iter_batches(rows, columns=list(columns), use_threads=threads):
                    unpacked += batch.nbytes
                    if unpacked > most:
                        raise _bomb(path, most)
                    _check_values(path, batch, type_, _schema(struct))
                    yield batch
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _batch_rows(path: Path, metadata: Any, most: int) -> int:
    """How many rows can be unpacked at once: a row repeats at most every value that a column holds."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    sizes: list[int] = [chunk.total_uncompressed_size for chunk in chunks]
    numbers = sum(chunk.num_values for chunk in chunks)
    if sum(sizes) > most or numbers > most or metadata.num_rows > most or min(sizes, default=0) < 0:
        raise _bomb(path, most)
    return max(1, min(BATCH_ROWS, most // max([1, *sizes])))


def _bomb(path: Path, most: int) -> DataError:
    return DataError(f"{path} unpacks to more than {most:,} bytes, which is more than a run's file of its size does.")


def _unpacked(path: Path, batch: pa.RecordBatch, type_: type[R], struct: _Column) -> Iterator[R]:
    """The records of a batch; one that is refused raises ValueError in its turn."""
    try:
        columns = {name: struct.children[name].read(batch.column(name)) for name in batch.schema.names}
    except (pa.ArrowException, ValueError) as error:  # text that is not UTF-8
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    return _records(type_, columns)


def _records(type_: type[R], columns: Mapping[str, Iterator[Any]]) -> Iterator[R]:
    for values in zip(*columns.values(), strict=True):
        yield type_(**dict(zip(columns, values, strict=True)))


@dataclass(frozen=True, slots=True)
class _Column:
    """How values of one type hint are stored in Arrow."""

    type: pa.DataType
    nullable: bool
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    children: Mapping[str, _Column] = field(default_factory=dict)
    """of a struct by their names; of a list the one column `item`"""
    optional: frozenset[str] = frozenset()
    """children that files written before may not have"""
    write_column: Callable[[Sequence[Any]], pa.Array] | None = None
    """of many values at once; None: they are packed one by one"""
    read_column: Callable[[pa.Array], Iterator[Any]] | None = None
    """the inverse; what it raises before the first value is about the file"""
    also: pa.DataType | None = None
    """another type that it is read from: that of files written before"""

    def write(self, values: Sequence[Any]) -> pa.Array:
        """The values as a column."""
        if self.write_column:
            return self.write_column(values)
        return pa.array([self.pack(value) for value in values], self.type)

    def read(self, array: pa.Array) -> Iterator[Any]:
        """The values of a column."""
        return self.read_column(array) if self.read_column else map(self.unpack, array.to_pylist())

    def accepts(self, actual: pa.DataType) -> bool:
        """Whether a column of a file can be read as this one."""
        if self.also:
            return bool(actual == self.type or actual == self.also)
        if not self.children:
            return bool(actual == self.type)
        if pa.types.is_list(self.type):
            return pa.types.is_list(actual) and self._accepts("item", actual.value_field)
        if not pa.types.is_struct(actual) or not {child.name for child in actual} <= set(self.children):
            return False
        missing = set(self.children) - {child.name for child in actual}
        return missing <= self.optional and all(self._accepts(child.name, child) for child in actual)

    def _accepts(self, name: str, actual: pa.Field) -> bool:
        child = self.children[name]
        return bool(actual.nullable == child.nullable) and child.accepts(actual.type)


def _same(value: Any) -> Any:
    return value


_SCALARS = {
    str: _Column(pa.string(), False, storable, _same),
    int: _Column(pa.int64(), False, _same, _same),
    float: _Column(pa.float64(), False, _same, _same),
    bool: _Column(pa.bool_(), False, _same, _same),
}


def _struct(type_: type[Any], where: str = "") -> _Column:
    """A dataclass as a struct with one child per field; `where` is the path of the field for messages."""
    return _cached_struct(cast(Hashable, type_), where)


@cache
def _cached_struct(type_: Any, where: str) -> _Column:
    """Reading the type hints of a rollout takes longer than reading a small file of them."""
    hints = get_type_hints(type_, include_extras=True)
    columns = {f.name: _column(hints[f.name], f"{where}.{f.name}".lstrip(".")) for f in dataclasses.fields(type_)}
    arrow = pa.struct([pa.field(name, column.type, column.nullable) for name, column in columns.items()])

    def pack(record: Any) -> dict[str, Any]:
        return {name: column.pack(getattr(record, name)) for name, column in columns.items()}

    def unpack(row: dict[str, Any]) -> Any:
        return type_(**{name: columns[name].unpack(value) for name, value in row.items()})

    def write(records: Sequence[Any]) -> pa.Array:
        arrays = [column.write([getattr(each, name) for each in records]) for name, column in columns.items()]
        return pa.StructArray.from_arrays(arrays, fields=list(arrow))

    def read(array: pa.Array) -> Iterator[Any]:
        inner = zip((each.name for each in array.type), array.flatten(), strict=True)
        return _records(type_, {name: columns[name].read(child) for name, child in inner})

    return _Column(arrow, False, pack, unpack, columns, _with_default(type_), write, read)


def _with_default(type_: type[Any]) -> frozenset[str]:
    """The fields that a file may leave out."""
    none = dataclasses.MISSING
    fields = dataclasses.fields(type_)
    return frozenset(part.name for part in fields if part.default is not none or part.default_factory is not none)


def _column(hint: Any, where: str) -> _Column:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is Literal:
        return _literal(arguments, where)
    if origin in (Union, UnionType) and NoneType in arguments and len(arguments) == 2:
        return _optional(_column(next(a for a in arguments if a is not NoneType), where))
    if origin is Annotated:
        return _token_array(arguments[1])
    if origin is tuple and arguments[1:] == (...,):
        return _list(_column(arguments[0], f"{where}[]"))
    if origin is tuple:
        return _fixed([_column(argument, f"{where}[{at}]") for at, argument in enumerate(arguments)])
    if origin is Mapping:
        return _mapping(where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _struct(hint, where)
    raise TypeError(f"{where}: no column type for {hint}; add one in reasoner/io/parquet.py")


def _optional(inner: _Column) -> _Column:
    return dataclasses.replace(
        inner,
        nullable=True,
        pack=lambda value: None if value is None else inner.pack(value),
        unpack=lambda value: None if value is None else inner.unpack(value),
        # as columns only where a null has a place of its own
        write_column=inner.write_column if inner.also else None,
        read_column=inner.read_column if inner.also else None,
    )


_TOKEN_TYPES: dict[Kind, tuple[pa.DataType, pa.DataType]] = {
    "int32": (pa.int32(), pa.int64()),
    "uint16": (pa.uint16(), pa.uint16()),
    "bool": (pa.bool_(), pa.bool_()),
    "float32": (pa.float32(), pa.float64()),
    "float64": (pa.float64(), pa.float64()),
}
"""how a number is written, and how it was when every number was Python's"""


def _token_array(kind: Kind) -> _Column:
    """One number per token: a list whose numbers are never looked at one by one."""
    arrow, before = (pa.list_(pa.field("item", each, False)) for each in _TOKEN_TYPES[kind])

    def write(rows: Sequence[TokenArray[Any] | None]) -> pa.Array:
        arrays = [np.empty(0, kind) if row is None else np.asarray(row) for row in rows]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
        numbers = pa.array(np.concatenate(arrays), arrow.value_type, from_pandas=False)
        nulls = pa.array([row is None for row in rows])
        return pa.ListArray.from_arrays(pa.array(offsets), numbers, arrow, mask=nulls)

    def read(array: pa.Array) -> Iterator[TokenArray[Any] | None]:
        numbers = pc.cast(array.values, arrow.value_type).to_numpy(zero_copy_only=False)
        ends = array.offsets.to_numpy()
        nulls = array.is_null().to_pylist()
        return (
            None if null else TokenArray(numbers[first:end], kind)
            for null, first, end in zip(nulls, ends, ends[1:], strict=False)
        )

    return _Column(
        arrow,
        False,
        lambda row: TokenArray(row, kind).tolist(),
        lambda row: TokenArray(row, kind),
        write_column=write,
        read_column=read,
        also=before,
    )


def _fixed(columns: Sequence[_Column]) -> _Column:
    """A tuple of so many values."""
    named = {str(at): column for at, column in enumerate(columns)}
    arrow = pa.struct([pa.field(name, column.type, column.nullable) for name, column in named.items()])

    def pack(values: Sequence[Any]) -> dict[str, Any]:
        return {name: column.pack(value) for (name, column), value in zip(named.items(), values, strict=True)}

    def unpack(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(column.unpack(row[name]) for name, column in named.items())

    return _Column(arrow, False, pack, unpack, named)


def _list(inner: _Column) -> _Column:
    arrow = pa.list_(pa.field("item", inner.type, inner.nullable))
    if inner.pack is inner.unpack is _same:  # token ids and log-probabilities: no Python call per token
        return _Column(arrow, False, _same, tuple)
    return _Column(
        arrow,
        False,
        lambda items: [inner.pack(item) for item in items],
        lambda items: tuple(map(inner.unpack, items)),
        {"item": inner},
    )


def _literal(allowed: tuple[Any, ...], where: str) -> _Column:
    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"field {where}: must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        return value

    return _Column(pa.string(), False, check, check)


def _mapping(where: str) -> _Column:
    def pack(value: Mapping[str, Any]) -> str:
        try:
            return storable_json(json.dumps(value, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"field {where}: {error}; it may hold JSON values only") from error

    def unpack(text: str) -> dict[str, Any]:
        try:
            value = parse_json(text)
        except ValueError as error:
            raise ValueError(f"field {where}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"field {where}: must be a JSON object, got {shortened(value)}")
        return value

    return _Column(pa.string(), False, pack, unpack)


def _schema(struct: _Column) -> pa.Schema:
    return pa.schema(list(struct.type))


def _table(path: Path, records: Sequence[Any], struct: _Column) -> pa.Table:
    try:
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(struct.write(records))])
    except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise DataError(f"{path}: {_first_bad(records, struct) or error}") from error


def _first_bad(records: Sequence[Any], struct: _Column) -> str:
    """`row 3, field x: why` for the first value that cannot be stored: Arrow itself says only why."""
    for number, record in enumerate(records, 1):
        try:
            row = struct.pack(record)
        except (ValueError, TypeError, AttributeError) as error:
            return f"row {number}: {error}"
        for child in struct.type:
            try:
                pa.array([row[child.name]], child.type)
            except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                return f"row {number}, field {child.name}: {error}"
    return ""


def _check_columns(path: Path, actual: pa.Schema, type_: type[Any], struct: _Column) -> None:
    for name in actual.names:
        if name not in struct.children:
            raise DataError(
                f"{path}: column {name!r} does not belong to {type_.__name__}.{nearest(name, struct.children)}"
            )
    for name, column in struct.children.items():
        if name not in actual.names:
            if name in struct.optional:
                continue
            raise DataError(f"{path}: the column {name!r} of {type_.__name__} is missing; it has {actual.names}")
        got = actual.field(name).type
        if not column.accepts(got):
            raise DataError(f"{path}: column {name!r} of {type_.__name__} must be {column.type}, got {got}")


def _check_values(path: Path, batch: pa.RecordBatch, type_: type[Any], expected: pa.Schema) -> None:
    """What is inside a column has its nulls in its type; the columns themselves do not."""
    for name in batch.schema.names:
        if batch.column(name).null_count and not expected.field(name).nullable:
            raise DataError(f"{path}: column {name!r} of {type_.__name__} must have a value in every row")
