"""Files that anybody may have written are read within bounds; those that we write are far from them."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reasoner.errors import DataError
from reasoner.io.bounded_files import (
    check_entries,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_object,
    read_text,
)
from reasoner.io.folder_lock import is_going
from reasoner.io.parsing import MAX_DEPTH, parse_toml
from reasoner.runs.checkpoints import Checkpoints
from reasoner.runs.find import list_runs
from reasoner.runs.reader import disk_use, read_run, read_runs
from tests.made_up import made_up_run
from tests.unit.test_untrusted_runs import SHOWN, deadline


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5, -3e8, null, true], "b": {"c": "x"}}',
        "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH,
        json.dumps("[" * 10**5),
        str(10**4000),
        '"\\ud83d\\ude00 \\u202e \\u0000"',
    ],
)
def test_json_is_read_as_it_is(text: str) -> None:
    assert parse_json(text) == json.loads(text)
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1), "more than 100 levels deep"),
        ("[" * 990 + "]" * 990, "more than 100 levels deep"),
        ("[" * 10**6, "more than 100 levels deep"),
        ('{"a":' * 10**6, "more than 100 levels deep"),
        ("NaN", "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ("1" * 5000, "Exceeds the limit"),
        ("", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"\xed\xa0\x80", "can't decode"),
        ("[1]".encode("utf-16"), "can't decode"),
    ],
)
def test_other_json_is_refused(text: str | bytes, message: str) -> None:
    with deadline(), pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("escape", "expected"), [("\\ud800", "\\ud800"), ("\\uDFFF", "\\udfff"), ("\\\\ud800", "\\ud800")]
)
def test_half_a_surrogate_pair_in_json_is_its_escape(escape: str, expected: str) -> None:
    assert parse_json(f'{{"{escape}": ["{escape}"]}}') == {expected: [expected]}


@pytest.mark.parametrize(
    "text",
    [
        "a.b.c.d = 1\n[x.y]\nz = [[1], {q = 2}]\n",
        f"[prompt]\ntemplate = '''{'a.' * 100}'''\nsystem = \"{'b.' * 100}\"\n# {'c.' * 100}\n",
        f'x = """\n{"a.b " * 100} \\"" ... {"." * 200}"""\n',
        "x = 9223372036854775807\ny = nan\nz = 2020-01-01\n",
    ],
)
def test_toml_is_read_as_it_is(text: str) -> None:
    assert str(parse_toml(text)) == str(tomllib.loads(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 10**6 + "a = 1", "more than 100 levels deep"),
        ("[" + "a . " * 10**5 + "a]", "more than 100 levels deep"),
        ('"a".' * 10**5 + "a = 1", "more than 100 levels deep"),
        ("x = {" + "a.'b'." * 10**5 + "a = 1}", "more than 100 levels deep"),
        ("x = " + "[" * 10**5, "levels deep|Invalid"),
        ("x = " + "[" * 101 + "]" * 101, "more than 100 levels deep"),
        ("x = " + "{a = " * 10**4, "levels deep|Invalid"),
        (f"x = 0x{'f' * 10**5}", "an integer has more than"),
        (f"x = {'9' * 10**5}", "Exceeds the limit"),
        ("9" * 10**5, "Expected '='"),
        ('"' * 100_001, "."),
        ("'''" * 33_333, "."),
    ],
)
def test_other_toml_is_refused(text: str, message: str) -> None:
    with deadline(), pytest.raises(ValueError, match=message):
        parse_toml(text)


def test_sizes_of_files_and_lines_have_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("12\n3456\n\n7")
    assert read_bytes(path, 10) == b"12\n3456\n\n7"
    assert list(read_lines(path, 10, 5)) == [b"12\n", b"3456\n", b"\n", b"7"]
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(DataError, match=r"x is larger than 8 bytes"):
            read(path, 8)
    with pytest.raises(DataError, match="x is larger than 8 bytes"):
        list(read_lines(path, 8))
    with pytest.raises(DataError, match="x, line 2: it is longer than 4 bytes"):
        list(read_lines(path, 10, 4))
    path.write_text("[]")
    with pytest.raises(DataError, match="x is not a JSON object"):
        read_object(path)


def test_a_link_is_followed_only_where_a_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link", 9, links=True) == "x"
    with pytest.raises(DataError, match="link is a link, not a regular file"):
        open_regular(tmp_path / "link")
    with pytest.raises(DataError, match=r"gone cannot be read: No such file"):
        open_regular(tmp_path / "gone", links=True)
    (tmp_path / "pipe").symlink_to(tmp_path / "real pipe")
    os.mkfifo(tmp_path / "real pipe")
    with deadline(), pytest.raises(DataError, match="pipe is a pipe"):
        open_regular(tmp_path / "pipe", links=True)


def test_a_folder_that_goes_on_may_have_links_to_folders(tmp_path: Path) -> None:
    """Checkpoints on a larger disk."""
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "a" / "file").touch()
    (tmp_path / "disk").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    check_entries(tmp_path / "run")
    (tmp_path / "run" / "a" / "link").symlink_to("file")
    with pytest.raises(DataError, match=r"a/link is a link"):
        check_entries(tmp_path / "run")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "x\0"])
def test_a_checkpoint_reads_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "checkpoints" / "outside").mkdir(parents=True)
    with Checkpoints(tmp_path).writing(3) as folder:
        (folder / "state.json").write_text("{}")
    manifest = tmp_path / "checkpoints" / "step-000003" / "manifest.json"
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(written | {"files": [written["files"][0] | {"name": name}]}))
    with pytest.raises(DataError, match=r"is not in the checkpoint|cannot be one of a file"):
        Checkpoints(tmp_path).verify(3)


@contextmanager
def ordinary_user() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_one_may_not_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = made_up_run(Path(place) / "runs", steps=1, problems=1, size=2)
        (folder / "closed").mkdir(mode=0)
        for name in SHOWN:
            (folder / name).chmod(0)
            with ordinary_user(), pytest.raises(DataError, match=f"{name} cannot be read: Permission denied"):
                read_run(folder)
            (folder / name).chmod(0o644)
        (folder / ".lock").chmod(0)
        with ordinary_user():
            assert not is_going(folder)
            assert read_run(folder).steps == 1
            assert disk_use(folder) > 0
        folder.chmod(0)
        with ordinary_user():
            assert list_runs(Path(place) / "runs") == []
        folder.chmod(0o755)


def test_every_run_that_cannot_be_read_has_a_line(tmp_path: Path) -> None:
    folders = [made_up_run(tmp_path / "runs", steps=1, problems=1, size=2) for _ in range(3)]
    for folder in folders[1:]:
        (folder / "status.json").write_text("{")
    with pytest.raises(DataError) as refused:
        read_runs(folders)
    lines = str(refused.value).splitlines()
    assert [line.split(": not JSON")[0] for line in lines] == [str(folder / "status.json") for folder in folders[1:]]
