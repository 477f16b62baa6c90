"""Files of a folder that anybody may have made, read within bounds.

Run folders are handed around. Whatever stands in the place of a file of theirs, reading it ends soon and takes little
memory: only a regular file is opened (a pipe waits for ever, opening a device can have effects, a link can lead out of
the folder), and its size, the length of its lines and the depth of its values are bounded. Every refusal is a
`DataError` of one line that begins with the path.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from reasoner.errors import DataError
from reasoner.io import parsing
from reasoner.io.safe_text import storable

SMALL_BYTES = 4 * 2**20
"""of a file that says a little: a status, a configuration"""
LARGE_BYTES = 256 * 2**20
"""of a file that lists many things: a checkpoint's files and states, a tokenizer"""
JSONL_BYTES = 64 * 2**30
"""of a file of JSON lines; the groups of an evaluation hold every token"""
LINE_BYTES = 512 * 2**20
"""of one of its lines"""
LARGEST = 1e100
"""of a figure that is calculated with, up or down: squares of larger ones cannot be added up"""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def open_regular(path: Path, *, links: bool = False) -> BinaryIO:
    """A regular file, open for reading.

    Args:
        links: follow a link to one. Files that a user names may be links, as those of a hub's cache are; those of a
            run folder are none.

    Raises:
        DataError: it is not there, is no regular file, or cannot be opened.
    """
    try:
        # Looked at before it is opened: opening a device can rewind, arm or take over something.
        _refuse_irregular(path, path.stat() if links else path.lstat())
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
        file = os.fdopen(os.open(path, flags), "rb")
        try:
            _refuse_irregular(path, os.fstat(file.fileno()))
        except DataError:
            file.close()
            raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise _unreadable(path, error) from error
    return file


def is_there(path: Path) -> bool:
    """Whether there is anything of this name: a file, or what stands in its place."""
    return os.path.lexists(path)


def is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one, that can be looked at."""
    return os.path.isdir(path)  # noqa: PTH112 (the method raises where a folder above it is closed to us)


def check_entries(folder: Path) -> None:
    """Refuse a folder that has anything in it, or in the folders below, but regular files, folders and links to
    folders: a run that goes on opens many of them, some by libraries.

    Raises:
        DataError: with the first one.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError as error:
                raise _unreadable(path, error) from error
            if not (stat.S_ISDIR(status.st_mode) or (stat.S_ISLNK(status.st_mode) and is_folder(path))):
                _refuse_irregular(path, status)


def read_bytes(path: Path, most: int, *, links: bool = False) -> bytes:
    """A whole file.

    Raises:
        DataError: as `open_regular`, or it is larger than `most` bytes.
    """
    with open_regular(path, links=links) as file:
        try:
            data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else b""
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(data) > most or os.fstat(file.fileno()).st_size > most:
            raise DataError(f"{path} is larger than {most:,} bytes, which is more than such a file has.")
    return data


def read_text(path: Path, most: int, *, links: bool = False) -> str:
    """A whole file of UTF-8 text.

    Raises:
        DataError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most, links=links).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded.") from error


def read_lines(path: Path, most: int = JSONL_BYTES, longest: int = LINE_BYTES) -> Iterator[bytes]:
    """The lines of a file with their ends, one at a time.

    Args:
        most: bytes of the file.
        longest: bytes of a line.

    Raises:
        DataError: as `open_regular`, or the file or a line of it is too large.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise DataError(f"{path} is larger than {most:,} bytes, which is more than such a file has.")
        number = 0
        while True:
            number += 1
            try:
                line = file.readline(longest + 1)
            except OSError as error:
                raise _unreadable(path, error) from error
            if not line:
                return
            if len(line) > longest:
                raise DataError(f"{path}, line {number}: it is longer than {longest:,} bytes.")
            yield line


def read_json(path: Path, most: int = SMALL_BYTES) -> Any:
    """The value of a JSON file (`parse_json`).

    Raises:
        DataError: as `read_text`, or it is not such JSON.
    """
    try:
        return parse_json(read_text(path, most))
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: {error}") from error


def read_object(path: Path, most: int = SMALL_BYTES) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        DataError: as `read_json`, or it is no object.
    """
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object")
    return value


def parse_json(text: str | bytes) -> Any:
    """As `reasoner.io.parsing.parse_json`, of bytes too, with all text storable.

    Raises:
        ValueError: it is not such JSON.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    value = parsing.parse_json(decoded)
    # Only an escape makes half a surrogate pair of a text that was decoded.
    return storable(value) if "\\ud" in decoded or "\\uD" in decoded else value


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(f"{path} is {kind}, not a regular file, and is not opened.")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
