"""Runs by name: a path, a folder below `runs/`, or the beginning of its name when only one begins so.

The parts of an evaluation are run folders in its folder: `20260101-120000-eval-math-500/math-500-A`.
"""

from __future__ import annotations

from pathlib import Path

from reasoner.errors import UserError, nearest
from reasoner.io.bounded_files import is_folder, is_there
from reasoner.runs.reader import PLAN, is_run

RUNS = Path("runs")
"""where runs are unless told otherwise (run.output)"""


def find_run(name: str, below: Path = RUNS) -> Path:
    """The run folder that a user means.

    Raises:
        UserError: there is none, or several begin so; the message names them.
    """
    if is_run(path := Path(name).expanduser()):
        return path
    names = [str(folder.relative_to(below)) for folder in list_runs(below)] if is_folder(below) else []
    matches = [name] if name in names else [candidate for candidate in names if candidate.startswith(name)]
    if len(matches) == 1:
        return below / matches[0]
    if matches:
        raise UserError(
            f"{name!r} is the beginning of {len(matches)} runs in {below}: {_join_names(matches)}; give more of it."
        )
    if is_folder(path):
        raise UserError(f"{path} is not a run folder: it has no status.json.{_inside(path)}")
    hint = f" The last ones there: {_join_names(names[-3:])}." if names else ""
    raise UserError(f"there is no run {name!r}, as a path or below {below}/.{nearest(name, names)}{hint}")


def find_evaluation(name: str, below: Path = RUNS) -> Path | None:
    """The folder of an evaluation, by its path or its name below `runs/`; None: there is none."""
    places = (Path(name).expanduser(), below / name)
    return next((place for place in places if is_there(place / PLAN)), None)


def list_runs(folder: Path) -> list[Path]:
    """The run folders in a folder and in the evaluations there, by name, which begins with the time of their start.

    Raises:
        UserError: there is no such folder.
    """
    if not is_folder(folder):
        raise UserError(f"there is no folder {folder}; runs are written to {RUNS} in the current folder (run.output).")
    inside = [folder, *(path for path in _folders(folder) if is_there(path / PLAN))]
    return sorted(path for place in inside for path in _folders(place) if is_run(path))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder; none where it cannot be looked into."""
    try:
        return [path for path in folder.iterdir() if is_folder(path)]
    except OSError:
        return []


def _inside(path: Path) -> str:
    runs = list_runs(path)
    return f" It holds runs: {_join_names([str(run) for run in runs[-3:]])}" if runs else ""


def _join_names(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown
