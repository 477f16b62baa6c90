"""The Python that programs run with, and what of the file system it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ISOLATED = ("-I", "-S")
"""options of the interpreter: no environment variables, no user or site packages, nothing from the working directory"""

_PARTS = ("bin", "lib", "lib32", "lib64", "libexec")
_SYSTEM = ("/etc/ld.so.cache", "/etc/alternatives", "/usr/share/zoneinfo")
_PACKAGES = ("*/site-packages", "*/dist-packages")
"""where a `lib` keeps the packages of its interpreters"""
_OWN = ("reasoner", "reasoner_rewards", "reasoner_environments", "reasoner_tasks")
"""what must not be seen wherever it is installed: with it a program could make a problem's hidden tests again"""


def _interpreter() -> Path:
    """The base interpreter of this process, never the link or copy in a virtual environment."""
    named = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return Path(os.path.realpath(named if named.exists() else sys.executable))


PYTHON = str(_interpreter())
"""path of the interpreter, the same inside as outside"""


def readable_paths() -> list[Path]:
    """What a program may read: programs and libraries of the system and of the interpreter, less `hidden_paths`.

    Not all of `/usr`: images keep checkouts in `/usr/src`. Only existing paths; links as they are.
    """
    prefixes = dict.fromkeys((Path("/"), Path("/usr"), Path(PYTHON).parent.parent))
    paths = [prefix / part for prefix in prefixes for part in _PARTS]
    return [path for path in (*paths, *map(Path, _SYSTEM)) if path.exists()]


@cache
def hidden_paths() -> tuple[Path, ...]:
    """Folders below `readable_paths` that a program must not see: installed packages, this one and its tasks above all.

    `-S` only keeps them off the program's path, which it can put them on again. Folders as they really are, without
    links, and none inside another one.
    """
    readable = [path.resolve() for path in readable_paths()]
    library = Path(os.__file__).resolve().parent
    paths = {
        folder
        for folder in _package_folders(readable)
        if any(folder.is_relative_to(path) for path in readable)
        # not a whole `lib` that somebody has on the path of modules: programs need what else is in it
        and not any(path.is_relative_to(folder) for path in (*readable, library))
        and folder.is_dir()
    }
    return tuple(sorted(folder for folder in paths if paths.isdisjoint(folder.parents)))


def _package_folders(libraries: list[Path]) -> Iterator[Path]:
    for library in libraries:
        yield from (folder.resolve() for pattern in _PACKAGES for folder in library.glob(pattern))
    on_path = (Path(entry).resolve() for entry in sys.path)
    yield from (folder for folder in on_path if folder.name != "lib-dynload")
    for name in _OWN:
        if (spec := find_spec(name)) is not None:
            yield from (Path(place).resolve() for place in spec.submodule_search_locations or ())
