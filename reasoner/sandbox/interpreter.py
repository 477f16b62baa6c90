"""The Python that programs run with, and what of the file system it needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ISOLATED = ("-I", "-S")
"""options of the interpreter: no environment variables, no user or site packages, nothing from the working directory"""

_PARTS = ("bin", "lib", "lib32", "lib64", "libexec")
_SYSTEM = ("/etc/ld.so.cache", "/etc/alternatives", "/usr/share/zoneinfo")


def _interpreter() -> Path:
    """The base interpreter of this process, never the link or copy in a virtual environment."""
    named = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return Path(os.path.realpath(named if named.exists() else sys.executable))


PYTHON = str(_interpreter())
"""path of the interpreter, the same inside as outside"""


def readable_paths() -> list[Path]:
    """What a program may read: programs and libraries of the system and of the interpreter.

    Not all of `/usr`: images keep checkouts in `/usr/src`. Only existing paths; links as they are.
    """
    prefixes = dict.fromkeys((Path("/"), Path("/usr"), Path(PYTHON).parent.parent))
    found = [prefix / part for prefix in prefixes for part in _PARTS]
    return [path for path in (*found, *map(Path, _SYSTEM)) if path.exists()]
