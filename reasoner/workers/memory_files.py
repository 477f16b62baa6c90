"""Files that a call creates in /dev/shm: they take memory until somebody removes them.

A worker tells its host of each before it is there, so that the host can remove it whichever way the worker ends: the
process that a call ran in must not be what its memory hangs on. Seen are files and folders that Python code makes,
`multiprocessing.shared_memory` included; not those of programs that a call starts.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = b"/dev/shm/"
_CREATES = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}
"""audit event -> which of its arguments is the path that it makes"""


class MemoryFiles:
    """Notices what this process creates, from now on and until it ends: an audit hook cannot be removed.

    `tell` takes the path of each.
    """

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self._tell = tell
        self._created: list[bytes] = []
        self._own = os.getpid()
        sys.addaudithook(self._audit)
        _audit_shared_memory()

    def left(self) -> list[str]:
        """The names of those that are still there."""
        if not self._created:
            return []
        self._created = [path for path in self._created if os.path.lexists(path)]
        return [os.fsdecode(path.removeprefix(FOLDER)) for path in self._created]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & os.O_CREAT:
                self._note(path)
        elif event in _CREATES:
            self._note(arguments[_CREATES[event]])

    def _note(self, path: Any) -> None:
        if isinstance(path, int) or os.getpid() != self._own:
            return
        name = os.path.abspath(os.fsencode(path))  # noqa: PTH100 (bytes)
        if name.startswith(FOLDER) and not os.path.lexists(name):
            self._created.append(name)
            self._tell(name)


def remove(paths: Iterable[bytes]) -> None:
    """Remove what is still there of the files and folders that a worker has told of."""
    for path in paths:
        if not os.path.abspath(path).startswith(FOLDER):  # noqa: PTH100 (bytes)
            continue
        with suppress(OSError):
            if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114 (bytes)
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(os.fsdecode(path)).unlink()


def _audit_shared_memory() -> None:
    """Opening shared memory raises no audit event: raise the one of the file that it is."""
    import _posixshmem  # type: ignore[import-not-found]

    shm_open = _posixshmem.shm_open

    def audited(path: str, flags: int, mode: int = 0o777) -> Any:
        sys.audit("open", os.fsdecode(FOLDER) + path.lstrip("/"), None, flags)
        return shm_open(path, flags, mode=mode)

    _posixshmem.shm_open = audited
