"""Files and folders that are either complete or not there: write beside the target, sync, rename, sync the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name in the folder of `path`; what was written there takes the place of `path` on success.

    A reader, or a kill at any moment, sees the old file or the new one, never a part. After an error the old one stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it becomes `path` on success, with everything in it synced.

    A folder cannot replace another in one operation: when `path` exists, it is removed just before the rename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            sync(entry)
        sync(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 in the place of `path`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append one line and sync it. After a kill in between, the last line may be cut: it has no newline then.

    Raises:
        ValueError: `line` has a newline in it.
    """
    if "\n" in line:
        raise ValueError(f"one line is appended at a time, got {line.count(chr(10)) + 1}")
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
