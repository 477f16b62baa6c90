"""One process at a time works on a run folder: an advisory lock, which the system lets go when its holder ends.

Some file systems have none (Lustre without the mount option `flock`, NFS without a lock service). A run does not go on
there without it: two processes that write one folder destroy both runs.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from reasoner.errors import DataError, UserError
from reasoner.io.bounded_files import open_regular

NAME = ".lock"


class Lock:
    """The lock of a run folder, held until it is closed or this process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it.
        UserError: the folder's file system has no locks.
        OSError: the file of the lock cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        self._descriptor: int | None = os.open(folder / NAME, flags, 0o666)
        for last in (False, False, True):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if last:
                    self.close()
                    raise
                time.sleep(0.05)  # `is_going` holds it for an instant
            except OSError as error:
                self.close()
                raise UserError(
                    f"{folder} cannot be locked ({error.strerror or error}), and without a lock a second process could "
                    "work on it unnoticed. Its file system has no file locks: choose a folder on another one with "
                    "--output (run.output), or have it mounted with them (Lustre: -o flock; NFS: with its lock service)"
                ) from error

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def is_going(folder: Path) -> bool:
    """Whether a process works on the run in `folder` now; True where the file system has no locks, and it may do so."""
    try:
        file = open_regular(folder / NAME)  # for reading: a folder that one may only read can be looked at
    except DataError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
