"""The command lines of the Python processes that this program starts.

They import what is installed and what `PYTHONPATH` names, and nothing from the working directory, which may be a
stranger's: left alone, `python -m` and `python -c` look there first, for `statistics.py` and for `*.dist-info` alike.
"""

from __future__ import annotations

import os
import sys

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""environment variable for a library's process that starts further ones with command lines of its own. Not for reward
sources: a script that they run would no longer find the files beside it."""


def module_command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def boot_command(module: str) -> list[str]:
    """A process that imports from where this one does, and calls `main` of a module of ours."""
    boot = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import main; main()"
    return [sys.executable, "-P", "-c", boot, *_import_path()]


def _import_path() -> list[str]:
    """Where this process imports from, without the working directory that `python -m` or `python -c` put first."""
    path = [entry for entry in sys.path if entry]
    started_by_m = getattr(sys.modules["__main__"], "__spec__", None) is not None and not sys.flags.safe_path
    return path[1:] if started_by_m and path[0] == os.getcwd() else path  # noqa: PTH109 (as Python wrote it)
