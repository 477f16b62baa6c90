"""A run folder read back, whatever state it is in: what `reasoner report` and `reasoner runs` show."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from reasoner.errors import DataError
from reasoner.runs.folder import IDENTITY, Evaluated, read_evaluations, read_metrics
from reasoner.runs.lock import is_going
from reasoner.runs.starts import FILE as STARTS
from reasoner.runs.starts import Start, read_starts

PLAN = "plan.json"
"""file by which an evaluation's folder is known"""
State = Literal["running", "finished", "stopped", "failed", "interrupted", "killed"]
"""`killed`: the folder says that it is running, and no process works on it"""


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What a run folder holds, without its responses and weights."""

    folder: Path
    state: State
    reason: str
    """why it failed or was interrupted; empty otherwise"""
    started: datetime
    ended: datetime | None
    """None: not ended, or ended without being able to say so"""
    metrics: tuple[Mapping[str, float], ...]
    """one mapping per committed step, `step` included; a value that was not finite is NaN"""
    evaluations: tuple[Evaluated, ...]
    config: Mapping[str, Any]
    """`config.toml` as it is written, not checked: another version may have written it"""
    config_text: str
    environment: Mapping[str, Any]
    """`environment.json`"""
    starts: tuple[Start, ...]
    """the first one, and every one after an interruption"""

    @property
    def name(self) -> str:
        """The folder's name; of a part of an evaluation with that of the evaluation."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if (folder.parent / PLAN).is_file() else folder.name

    @property
    def steps(self) -> int:
        """Committed steps."""
        return len(self.metrics)

    @property
    def planned_steps(self) -> int:
        """Steps that the run was to make; 0: an evaluation alone."""
        return int(self.config["run"]["steps"]) if self.trains else 0

    @property
    def trains(self) -> bool:
        """Whether it is a training run; otherwise it only evaluates (`reasoner eval`)."""
        return "steps" in self.chosen

    @property
    def chosen(self) -> Mapping[str, str]:
        """What was chosen at the start, and why: model, data, engine, method."""
        chosen: Mapping[str, str] = self.environment["chosen"]
        return chosen

    @property
    def correct(self) -> str:
        """The reward source that decides whether a response is correct; empty: there is no evaluation."""
        return str(self.config.get("evaluation", {}).get("correct", ""))

    @property
    def seconds(self) -> float | None:
        """From its start to its end; None: it has no end, or was resumed, and there is time between its starts."""
        return (self.ended - self.started).total_seconds() if self.ended and len(self.starts) < 2 else None

    @property
    def can_resume(self) -> bool:
        """Whether `reasoner run --resume` can go on with it."""
        return self.state not in ("running", "finished") and (self.folder / IDENTITY).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's."""
    return (folder / "status.json").is_file()


def read_state(folder: Path) -> State:
    """How a run is, without reading anything else of it.

    Raises:
        DataError: it is no run folder, or its status is malformed.
    """
    return _status(folder)[0]


def read_run(folder: Path) -> SavedRun:
    """Read a run folder. A run that still goes is read as far as it is committed.

    Raises:
        DataError: it is no run folder, or a file in it is missing or malformed; the message names it.
    """
    state, reason, started, ended = _status(folder)
    text = _text(folder / "config.toml")
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{folder / 'config.toml'} is not TOML: {error}") from error
    return SavedRun(
        folder=folder,
        state=state,
        reason=reason,
        started=started,
        ended=ended,
        metrics=tuple(read_metrics(folder)),
        evaluations=tuple(read_evaluations(folder)),
        config=config,
        config_text=text,
        environment={"chosen": {}} | _object(folder / "environment.json"),
        starts=tuple(read_starts(folder)) if (folder / STARTS).is_file() else (),
    )


def disk_use(folder: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile is not counted."""
    total = 0
    for path in (folder, *folder.rglob("*")):
        try:
            total += path.lstat().st_size if not path.is_dir() or path.is_symlink() else 0
        except FileNotFoundError:
            continue
    return total


def _status(folder: Path) -> tuple[State, str, datetime, datetime | None]:
    """State, reason, start and end."""
    path = folder / "status.json"
    if not path.is_file():
        raise DataError(f"{folder} is not a run folder: it has no status.json")
    status = _object(path)
    try:
        started, ended = datetime.fromisoformat(status["started"]), status["ended"]
        state: State = status["state"]
        if state not in get_args(State):
            raise ValueError(f"state {state!r}")
        if state == "running" and not is_going(folder):
            state = "killed"
        return state, str(status["reason"]), started, datetime.fromisoformat(ended) if ended else None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not what a run writes: {error!r}") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
