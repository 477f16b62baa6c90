"""Files and folders that are either complete or not there: write beside the target, sync, rename, sync the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name in the folder of `path`; what was written there takes the place of `path` on success.

    A reader, or a kill at any moment, sees the old file or the new one, never a part. After an error the old one stays.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def replacing_folder(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it becomes `path` on success, with everything in it synced.

    A folder cannot replace another in one operation: when `path` exists, it is removed just before the rename.

    Args:
        new: remove nothing. What is at `path` by then stays, unless it is an empty folder.

    Raises:
        OSError: with `new`, something is at `path`.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            sync(entry)
        sync(temporary)
        if path.exists() and not new:
            remove_folder(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with everything in it: for a reader, or after a kill, it is whole or gone."""
    removed = _temporary(path.with_name(f"{path.name}.removed"))
    path.rename(removed)
    sync(path.parent)
    shutil.rmtree(removed)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of its temporary files and folders in `folder`, which nobody else uses now."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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


def keep_lines(path: Path, keep: Callable[[bytes], bool] = lambda line: True) -> None:
    """Remove the other lines of what `append_line` wrote, and a last line that is not whole."""
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    after = b"".join(line for line in lines if line.endswith(b"\n") and keep(line))
    if after != before:
        with replacing(path) as temporary:
            temporary.write_bytes(after)


def sync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
