"""Scratch folders on this machine's disk, for sandboxes that have no file system of their own."""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterator, Mapping

from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.sandbox.base import FILE_BYTES

_DEEPEST = 64
"""levels of folders"""
_BLOCK = 512
"""bytes that `st_blocks` counts in"""


class Scratch:
    """A new folder with files in it."""

    def __init__(self, files: Mapping[str, bytes], most: int) -> None:
        """Make it; it is full with more than `most` bytes."""
        self._most = most
        self._folder = ScratchFolder("program")
        self.path = self._folder.path
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
        for size in _sizes(self._folder.descriptor, _DEEPEST):
            total += max(size, FILE_BYTES)
            if total > self._most:
                return True
        return False

    def remove(self) -> None:
        """Remove the folder, also where a program has taken away its own permissions."""
        self._folder.remove()


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
