"""What a run ran on: versions, hardware, what was chosen. No environment variables, command line, user: no secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil

import reasoner
from reasoner.io.redaction import redact


def describe(chosen: Mapping[str, str]) -> dict[str, Any]:
    """The content of `environment.json`.

    Args:
        chosen: what the pipeline decided and why, as it was printed: engine, device, profile, model, data.
    """
    usable = len(os.sched_getaffinity(0))
    return {
        "chosen": {name: redact(fact) for name, fact in chosen.items()},
        "reasoner": {"version": reasoner.__version__, "git": git_commit(Path(reasoner.__file__).resolve().parents[1])},
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": {"machine": os.cpu_count(), "usable": usable, "threads": _threads(usable)},
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": dict(sorted(_packages())),
    }


def _threads(usable: int) -> int:
    """Threads of a matrix product: their number decides in which order a CPU adds up."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else usable


def now() -> str:
    """The time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def git_commit(checkout: Path) -> dict[str, Any] | None:
    """Commit of `checkout` and whether it has changes; None when it is no checkout of its own, or there is no git."""
    top = _git(checkout, "rev-parse", "--show-toplevel")
    # An environment inside somebody's own repository: its commit says nothing about this package.
    if top is None or Path(top).resolve() != checkout.resolve():
        return None
    commit, changes = (
        _git(checkout, "rev-parse", "HEAD"),
        _git(checkout, "status", "--porcelain", "--untracked-files=no"),
    )
    return None if commit is None else {"commit": commit, "changed": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _packages() -> frozenset[tuple[str, str]]:
    read = (distribution.metadata for distribution in importlib.metadata.distributions())  # parsed at every access
    return frozenset((metadata["Name"], metadata["Version"]) for metadata in read)
