"""Scratch folders on this machine's disk, for sandboxes that have no file system of their own.

A folder is locked for as long as its owner lives: what a killed process left behind is known by its free lock, and is
removed by the next one that makes a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path

from reasoner.processes import scratch_prefix

_KIND = "program-"
_BLOCK = 512
"""bytes that `st_blocks` counts in"""


class Scratch:
    """A fresh folder with files in it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        remove_stale()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=f"{scratch_prefix()}{_KIND}"))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists():  # else somebody took it for stale before it was locked
                    break
            os.close(self._lock)
        for name, data in files.items():
            place = self.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    def usage(self) -> tuple[int, int]:
        """Bytes on disk and number of files."""
        size, files = 0, 0
        for _, _, names, folder in os.fwalk(self.path, onerror=lambda _: None):
            for name in names:
                with contextlib.suppress(OSError):
                    size += os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * _BLOCK
            files += len(names) + 1
        return size, files

    def remove(self) -> None:
        """Remove it, whatever a program made of it."""
        remove_tree(self.path)
        os.close(self._lock)


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
