"""Data files of every format: the same rows come out, and what is malformed is named with its row and field."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasoner.data import readers as files
from reasoner.data.readers import plain, read_file, stem_of_file
from reasoner.data.row_report import RowError
from reasoner.errors import DataError

ROWS = [
    {"question": "One, or\ntwo?", "answer": "1"},
    {"question": 'He said "two"', "answer": "2"},
    {"question": "Größe?", "answer": "3"},
]


DEEP = "[" * 100_000 + "]" * 100_000


def rows_of(path: Path) -> list[Mapping[str, Any]]:
    """The fields of every row; what is wrong with one is raised."""
    result = []
    for _, fields in read_file(path):
        if isinstance(fields, RowError):
            raise fields
        result.append(fields)
    return result


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv(rows: list[dict[str, str]]) -> bytes:
    quoted = [[value.replace('"', '""') for value in row.values()] for row in rows]
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row) for row in quoted)]
    return ("\r\n".join(lines) + "\r\n").encode("utf-8-sig")  # as spreadsheets write it


FORMATS: Mapping[str, Callable[[list[dict[str, str]]], bytes]] = {
    "x.jsonl": jsonl,
    "x.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "data.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "x.csv": csv,
    "x.tsv": lambda rows: csv(rows).replace(b",", b"\t").replace(b"One\t", b"One,"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compressed", [False, True])
def test_text_formats_give_the_same_rows(tmp_path: Path, name: str, compressed: bool) -> None:
    content = FORMATS[name](ROWS)
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert [fields for _, fields in read_file(path)] == ROWS
    assert stem_of_file(path.name) == name.partition(".")[0]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_half_a_surrogate_pair_becomes_its_escape(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMATS[name]([{"question": "\ud800?", "a\udc00": "\U0001f600"}]))
    assert [fields for _, fields in read_file(path)] == [{"question": "\\ud800?", "a\\udc00": "\U0001f600"}]
    assert plain("row 1", {"a": {"b": "\ud800"}}) == {"a": {"b": "\\ud800"}}


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=2)
    return path


def test_nested_columns_of_parquet_become_plain_json(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "x.parquet",
        {
            "question": ["a", "b", "c"],
            "tests": [[{"in": 1, "out": [2]}], [], None],
            "counts": pa.array([[("x", 1)], [], None], pa.map_(pa.string(), pa.int64())),
            "day": [date(2025, 2, 6)] * 3,
            "at": [datetime(2025, 2, 6, 12, 30)] * 3,
            "price": [Decimal("1.50")] * 3,
        },
    )
    rows = rows_of(path)
    assert [place for place, _ in read_file(path)] == [f"{path}, row {number}" for number in range(3)]
    assert rows[0] == {
        "question": "a",
        "tests": [{"in": 1, "out": [2]}],
        "counts": {"x": 1},
        "day": "2025-02-06",
        "at": "2025-02-06T12:30:00",
        "price": "1.50",
    }
    assert (rows[2]["tests"], rows[2]["counts"]) == (None, None)


def test_parquet_is_read_in_batches_and_counted_through(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"n": list(range(3000))})
    assert list(read_file(path))[2999] == (f"{path}, row 2999", {"n": 2999})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", '[{"a": 1}, 3]', r"x\.json, row 1: a JSON object is needed, got int '3'"),
        ("x.json", '{"rows": []}', r"list of objects is needed, or an object with one under 'data'; got .* 'rows'"),
        ("x.json", '{"data": {"a": 1}}', r"got an object with 'a'"),
        ("x.json", '{"a": 1}\n{"a": 2}\n', r"not JSON: Extra data: line 2 .* name it \.jsonl"),
        ("x.json", '[{"a": Infinity}]', r"x\.json, row 0, field 'a': not a JSON value: .*not JSON compliant"),
        ("x.csv", "a,b\n1\n", r"x\.csv, line 2: 1 values for the 2 columns a, b"),
        ("x.csv", 'a,b\n"1\n2",3\n\n4,5,6\n', r"x\.csv, line 5: 3 values for the 2 columns"),
        ("x.csv", 'a,b\n1,"2\n', r"x\.csv, line 2: not CSV: unexpected end of data"),
        ("x.csv", "a,a\n", r"line 1: the first line must name the columns, and 'a' is there twice"),
        ("x.csv", "a,\n", r"line 1: the first line must name the columns, and a name is empty"),
        ("x.csv", "a;b\n1;2\n", r"columns must be separated by commas \(or tabs, in a \.tsv file\), got 'a;b'"),
        ("x.csv", "a\tb\n1\t2\n", r"columns must be separated by commas \(or tabs, in a \.tsv file\)"),
        ("x.tsv", "a,b\n1,2\n", r"columns must be separated by tabs \(or commas, in a \.csv file\), got 'a,b'"),
        ("x.cvs", "", r"a data file ends in \.jsonl, \.json, \.csv, \.tsv, \.parquet \(or \.gz .*Did you mean '\.csv'"),
        ("x.parquet.gz", "", r"a data file ends in"),
        (
            "x.jsonl",
            '{"a": 1}\n{"a": 1, "b": ' + DEEP + "}\n",
            r"x\.jsonl, line 2: nested more than 100 .* in b\.0\.0\. ",
        ),
        ("x.jsonl", '{"a": [{"b": ' + "[" * 200 + "]" * 200 + "}]}", r"line 1: nested more than .*, in a\.0\.b\. "),
        ("x.jsonl", "[" * 100_000, r"line 1: nested more than 100 levels deep, in 0\.0\.0"),
        ("x.json", '[{"a": 1}, {"b": "[,{", "c": ' + DEEP + "}]", r"x\.json: nested more than .* in 1\.c\.0\."),
        ("x.json", '{"a":' * 100_000 + "1" + "}" * 100_000, r"x\.json: nested more than 100 levels deep, in a\.a\.a"),
        ("x.jsonl", '{"a": 1e999}', r"line 1: not JSON: 1e999 is too large for a number"),
        ("x.jsonl", '{"a": ' + "9" * 5000 + "}", r"line 1: not JSON: Exceeds the limit"),
        ("x.parquet", "PAR1", r"x\.parquet: cannot be read as Parquet after 0 rows"),
    ],
)
def test_malformed_files_are_refused_with_their_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "good"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": \n{"a": NaN}\n[1]\n{"a": 2}\n', [1, 2]),
        ("x.json", '[{"a": 1}, {"a": NaN}, 3, [4], {"a": 2}]', [1, 2]),
        ("x.json", '[{"a": 1}, {"a": 1e999}, {"a": ' + "[" * 150 + "]" * 150 + "}]", [1]),
        ("x.json", "[" + "[" * 150 + "]" * 150 + ', {"a": 1}]', [1]),
        ("x.csv", "a,b\n1,\n2\n3,,\n4,\n", ["1", "4"]),
        ("x.tsv", "a\tb\n1\t\n2\n4\t\n", ["1", "4"]),
    ],
)
def test_after_a_malformed_row_reading_goes_on(tmp_path: Path, name: str, text: str, good: list[Any]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    result = list(read_file(tmp_path / name))
    assert [fields["a"] for _, fields in result if not isinstance(fields, RowError)] == good
    assert all(str(fields).startswith(place) for place, fields in result if isinstance(fields, RowError))
    assert len(result) > len(good)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder: name the files in it, for example .*\*\.jsonl"):
        read_file(tmp_path)


@pytest.mark.parametrize(("value", "reason"), [(b"png", "bytes is none"), (float("nan"), "not JSON compliant")])
def test_values_that_json_does_not_have_are_refused_with_row_and_field(
    tmp_path: Path, value: object, reason: str
) -> None:
    path = parquet(tmp_path / "x.parquet", {"a": ["x", "y"], "odd": [None, value]})
    (_, good), (_, bad) = read_file(path)
    assert good == {"a": "x", "odd": None}
    with pytest.raises(DataError, match=rf"x\.parquet, row 1, field 'odd': not a JSON value: .*{reason}.*Leave"):
        raise bad  # type: ignore[misc]


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_what_is_nested_up_to_the_bound_is_read(tmp_path: Path, brackets: str) -> None:
    open_, close = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    for levels, good in ((98, True), (99, True), (100, False), (101, False)):
        text = f'{{"x": {open_ * levels}1{close * levels}, "y": "{"[" * 500}", "z": {[[]] * 300}}}'
        (tmp_path / "x.jsonl").write_text(text)
        if good:
            ((_, fields),) = read_file(tmp_path / "x.jsonl")
            assert fields == json.loads(text)
        else:
            with pytest.raises(DataError, match=r"line 1: nested more than 100 levels deep, in x"):
                rows_of(tmp_path / "x.jsonl")


def test_lines_and_files_have_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_CHARACTERS", 50)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n{"a": "' + b"a" * (files.MAX_LINE + 9) + b'"}\n'))
    with pytest.raises(DataError, match=r"x\.jsonl\.gz, line 2: longer than 67,108,864 characters"):
        list(read_file(tmp_path / "x.jsonl.gz"))
    for text, message in (
        ("[" + '{"a": 1},\n' * 6, r"x\.json: more than 50"),
        ("[" + " " * 50, "line 1: longer than 50"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=message):
            list(read_file(tmp_path / "x.json"))
    (tmp_path / "x.json").write_text('[{"a": 1},\n{"a": 2}]')
    assert len(list(read_file(tmp_path / "x.json"))) == 2


@pytest.mark.parametrize("levels", [120, 5000])
def test_nested_rows_of_a_generator_or_the_hub_are_refused_with_the_field(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    result = files.plain("here", {"a": 1, "b": value})
    assert str(result) == "here, field 'b': nested more than 100 levels deep. Leave the field out."


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"n": list(range(100))})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_file(path))


def test_a_long_cell_of_a_csv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"a,b\n{'long ' * 100_000},1\n")
    (fields,) = rows_of(tmp_path / "x.csv")
    assert len(fields["a"]) == 500_000
