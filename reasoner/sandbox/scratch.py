"""Scratch folders on this machine's disk, for sandboxes that have no file system of their own.

A folder is locked for as long as its owner lives: what a killed process left behind is known by its free lock, and is
removed by the next one that makes a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import count
from pathlib import Path

from reasoner.processes import scratch_prefix
from reasoner.sandbox.base import FILE_BYTES

_KIND = "program-"
_DEEPEST = 64
"""levels of folders"""
_BLOCK = 512
"""bytes that `st_blocks` counts in"""


class Scratch:
    """A fresh folder with files in it."""

    def __init__(self, files: Mapping[str, bytes], most: int) -> None:
        """Make it; it is full with more than `most` bytes."""
        remove_stale()
        self._most = most
        self.path, self._lock = _locked_folder()
        try:
            for name, data in files.items():
                place = self.path / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        except BaseException:
            self.remove()
            raise

    def full(self, deleted: float = 0.0) -> bool:
        """Whether it holds more than it may, or folders deeper than anybody needs; looks no further than to know.

        Args:
            deleted: bytes on disk that it holds in files without a name.
        """
        total = deleted
        if total > self._most:
            return True
        for size in _sizes(self._lock, _DEEPEST):
            total += max(size, FILE_BYTES)
            if total > self._most:
                return True
        return False

    def remove(self) -> None:
        """Remove it, whatever a program made of it."""
        with contextlib.suppress(OSError):  # a process that got away still writes there: it is stale from now on
            remove_tree(self.path)
        os.close(self._lock)


def _locked_folder() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{scratch_prefix()}{_KIND}"))
        with contextlib.suppress(FileNotFoundError):  # somebody took it for stale before it was locked
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    return path, lock
            os.close(lock)


def _sizes(folder: int, deepest: int) -> Iterator[float]:
    """Bytes on disk of all that is in an open folder; infinite for what can be filled and not be looked at."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                yield about.st_blocks * _BLOCK
                if stat.S_ISDIR(about.st_mode):
                    try:
                        inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                    except PermissionError:  # nobody can have put anything into a folder that cannot be entered either
                        yield math.inf if about.st_mode & stat.S_IXUSR else 0.0
                        continue
                    try:
                        yield from _sizes(inner, deepest - 1) if deepest else (math.inf,)
                    finally:
                        os.close(inner)


@cache
def remove_stale() -> None:
    """Remove the folders of processes that are gone; once per process."""
    for folder in Path(tempfile.gettempdir()).glob(f"reasoner-*-{_KIND}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(folder)
            finally:
                os.close(lock)


def remove_tree(top: Path) -> None:
    """Remove a folder of any depth and any permissions: folders below it are moved up, never walked down.

    `shutil.rmtree` recurses and needs an open file per level: a program that nests a few thousand folders defeats it.
    """
    fresh = (f"\n{number}" for number in count())
    pending = [""]
    while pending:
        folder = top / pending.pop()
        folder.chmod(stat.S_IRWXU)
        for entry in list(os.scandir(folder)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)  # noqa: PTH108
                continue
            name = next(fresh)
            os.chmod(entry.path, stat.S_IRWXU)  # noqa: PTH101 (a folder's parent changes only if it can be written)
            os.rename(entry.path, top / name)  # noqa: PTH104
            pending.append(name)
        if folder != top:
            folder.rmdir()
    top.rmdir()
