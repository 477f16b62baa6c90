"""A run folder read back, whatever state it is in: what `reasoner report` and `reasoner runs` show."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasoner.errors import DataError
from reasoner.evaluation.metrics import Criterion, listed_criteria
from reasoner.io.bounded_files import SMALL_BYTES, is_there, read_object, read_text
from reasoner.io.folder_lock import is_going
from reasoner.io.parsing import parse_toml
from reasoner.io.serialization import first_mistake
from reasoner.runs.clock import Times
from reasoner.runs.folder import CONFIG, IDENTITY, Evaluated, read_evaluations, read_metrics
from reasoner.runs.starts import FILE as STARTS
from reasoner.runs.starts import RunStart, check_environment, read_starts

STATUS = "status.json"
PLAN = "plan.json"
"""file by which an evaluation's folder is known"""
RunState = Literal["running", "finished", "stopped", "failed", "interrupted", "killed"]
"""`killed`: the folder says that it is running, and no process works on it"""
_Duration = Annotated[float, Field(ge=0.0, le=1e9)]
"""seconds"""


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What a run folder holds, without its responses and weights."""

    folder: Path
    state: RunState
    reason: str
    """why it failed or was interrupted; empty otherwise"""
    started: datetime
    ended: datetime | None
    """None: not ended, or ended without being able to say so"""
    metrics: tuple[Mapping[str, float], ...]
    """one mapping per committed step, `step` included; a value that was not finite is NaN"""
    evaluations: tuple[Evaluated, ...]
    config: Mapping[str, Any]
    """`config.toml` as it is written, checked only where it is read: another version may have written it"""
    config_text: str
    environment: Mapping[str, Any]
    """`environment.json`"""
    starts: tuple[RunStart, ...]
    """the first one, and every one after an interruption"""
    times: Times
    """until its end, or until the last committed step of a run that is going or was killed"""

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
    def criteria(self) -> Mapping[str, Criterion]:
        """What makes a response correct, by task; empty: the run samples nothing to evaluate it."""
        tasks = [(str(self.config["task"]), self.config), *_tasks_inside(self.config)]
        by_task = {name: _criterion(config) for name, config in tasks}
        return {name: criterion for name, criterion in by_task.items() if criterion is not None}

    @property
    def correct(self) -> str:
        """The same in words (`math`, `judge >= 0.8`); empty: the run samples nothing to evaluate it."""
        return listed_criteria(self.criteria)

    @property
    def seconds(self) -> float | None:
        """From its beginning to its end, without what lies between its starts; None: it has no end."""
        return self.times.total if self.ended else None

    @property
    def can_resume(self) -> bool:
        """Whether `reasoner run --resume` can go on with it."""
        return self.state not in ("running", "finished") and (self.folder / IDENTITY).is_file()


def _tasks_inside(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The parts of a mixture, and the further tasks that a run evaluates on, as they are written."""
    also = config.get("evaluation", {}).get("also", [])
    entries = [*config.get("mixture", []), *(also if isinstance(also, list) else [])]
    return [(str(entry["task"]), entry) for entry in entries if isinstance(entry, Mapping) and "task" in entry]


def _criterion(config: Mapping[str, Any]) -> Criterion | None:
    evaluation = config.get("evaluation", {})
    source = str(evaluation.get("correct", "")) if isinstance(evaluation, Mapping) else ""
    listed = config.get("rewards")
    rewards = [reward for reward in listed if isinstance(reward, Mapping)] if isinstance(listed, list) else []
    conditions = {str(reward.get("source")): str(reward["when"]) for reward in rewards if reward.get("when")}
    return Criterion.chained(source, evaluation.get("threshold", 1.0), conditions) if source else None


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's, even if it cannot be read."""
    return is_there(folder / STATUS)


def read_run(folder: Path) -> SavedRun:
    """Read a run folder. A run that still goes is read as far as it is committed.

    Raises:
        DataError: it is no run folder, or a file in it is missing or malformed; the message names it.
    """
    status = _status(folder)
    text, config = _config(folder / CONFIG)
    environment = read_object(folder / "environment.json")
    check_environment(str(folder / "environment.json"), environment)
    return SavedRun(
        folder=folder,
        state=status.state,
        reason=status.reason,
        started=status.started,
        ended=status.ended,
        times=status.times,
        metrics=tuple(read_metrics(folder)),
        evaluations=tuple(read_evaluations(folder)),
        config=config,
        config_text=text,
        environment=environment,
        starts=tuple(read_starts(folder)) if is_there(folder / STARTS) else (),
    )


def read_runs(folders: Sequence[Path]) -> list[SavedRun]:
    """Read several run folders.

    Raises:
        DataError: some cannot be read: a line for each of them.
    """
    runs, unreadable = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except DataError as error:
            unreadable.append(str(error))
    if unreadable:
        raise DataError("\n".join(unreadable))
    return runs


def disk_use(folder: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile is not counted."""
    if not folder.is_dir() or folder.is_symlink():
        return folder.lstat().st_size
    total = 0
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            with suppress(OSError):
                status = path.lstat()
                total += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return total


@dataclass(frozen=True, slots=True)
class _Status:
    """`status.json`."""

    state: RunState
    reason: str
    started: datetime
    ended: datetime | None
    times: Times


def _status(folder: Path) -> _Status:
    path = folder / STATUS
    if not is_run(folder):
        raise DataError(f"{folder} is not a run folder: it has no {STATUS}")
    status = read_object(path)
    try:
        state: RunState = status["state"]
        if state not in get_args(RunState):
            raise ValueError(f"state {state!r}")
        if state == "running" and not is_going(folder):
            state = "killed"
        started, ended = _time(status["started"]), _time(status["ended"]) if status["ended"] else None
        return _Status(state, str(status["reason"]), started, ended, _times(status, started, ended))
    except ValidationError as error:
        raise DataError(f"{path}: seconds.{first_mistake(error)}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not what a run writes: {error!r}"[:500]) from error


def _times(status: Mapping[str, Any], started: datetime, ended: datetime | None) -> Times:
    if "seconds" not in status:  # written before there was a clock: from the folder to the end, interruptions included
        return Times(0.0, 0.0, max(0.0, (ended - started).total_seconds()) if ended else 0.0)
    return Times(**_Seconds.model_validate(status["seconds"]).model_dump())


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return time


class _Seconds(BaseModel):
    """`Times` as it is read."""

    model_config = ConfigDict(strict=True)

    set_up: _Duration
    evaluation: _Duration
    total: _Duration


class _Model(BaseModel):
    path: str


class _Steps(BaseModel):
    steps: int = Field(ge=0)


class _Reward(BaseModel):
    source: str


class _Method(BaseModel):
    preset: str = ""
    terms: dict[str, dict[str, Any]] = {}


class _Deciding(BaseModel):
    correct: str = ""
    threshold: float = 1.0
    also: list[dict[str, Any]] = []


class _Task(BaseModel):
    task: str
    rewards: list[_Reward] = []
    evaluation: _Deciding = _Deciding()


class _Shape(BaseModel):
    """What is read of a configuration."""

    model_config = ConfigDict(strict=True)

    task: str
    title: str = ""
    model: _Model
    run: _Steps
    rewards: list[_Reward] = []
    gro: _Method = _Method()
    evaluation: _Deciding = _Deciding()
    mixture: list[_Task] = []
    data: dict[str, Any] = {}
    prompt: dict[str, Any] = {}


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    text = read_text(path, SMALL_BYTES)
    try:
        config = parse_toml(text)
        _Shape.model_validate(config)
    except ValidationError as error:
        raise DataError(f"{path}: {first_mistake(error)}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return text, config
