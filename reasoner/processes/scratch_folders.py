"""Temporary folders by which it can be known whether somebody still uses them.

A folder is named after its run and locked for as long as its owner lives. So the watchdog of a killed run finds it, and
where that was killed too, the next process that looks there knows the folder by its free lock and removes it. A lock is
seen across process namespaces and users, unlike a process; on a file system that cannot lock, nothing is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from functools import cache
from itertools import count
from pathlib import Path

from reasoner.processes.run_marker import scratch_prefix

_NAME = re.compile(r"reasoner-([0-9a-f]{32}|alone)-[a-z]+-[a-z0-9_]{8}", re.ASCII)


class ScratchFolder:
    """A fresh, empty folder that only this user can read, removed by `remove` or at the end of a `with` block.

    Raises:
        OSError: it cannot be made in `parent`.
    """

    def __init__(self, kind: str, parent: Path | None = None) -> None:
        """Make it.

        Args:
            kind: what it is for, in lower-case letters; it stands in its name.
            parent: None: the folder for temporary files.
        """
        place = Path(tempfile.gettempdir()) if parent is None else parent
        remove_abandoned(place)
        while not self._make(f"{scratch_prefix()}{kind}-", place):
            pass

    def _make(self, prefix: str, parent: Path) -> bool:
        """False: somebody took it for abandoned before it was locked."""
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):  # where nothing can be locked, nothing is taken for abandoned either
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        if self.path.exists():
            return True
        os.close(self.descriptor)
        return False

    def remove(self) -> None:
        """Remove it, whatever became of it; safe to call twice."""
        if self.descriptor < 0:
            return
        with contextlib.suppress(OSError):  # a process that got away still writes there: it is abandoned from now on
            remove_tree(self.path)
        os.close(self.descriptor)
        self.descriptor = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.remove()


@cache
def remove_abandoned(place: Path) -> None:
    """Remove this user's scratch folders there whose owners are gone; once per process and place."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for name in [entry.name for entry in entries if _NAME.fullmatch(entry.name)]:
            _remove_if_abandoned(place / name)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # gone, in use, another user's, or nothing can be locked there
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(folder)
        finally:
            os.close(lock)


def scratch_places() -> list[Path]:
    """Where they are made unless somebody says otherwise: in memory, and in the folder for temporary files."""
    return sorted({Path("/dev/shm"), Path(tempfile.gettempdir())})


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
