"""Goes on with a run folder: finds the place, checks that nothing it depends on has changed, cuts back what came after.

    lock -> newest unharmed checkpoint -> identity -> cut back metrics, evaluations, rollouts -> record the start

A kill in between changes nothing that matters: the next resume finds the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from shlex import quote

from reasoner.errors import DataError, UserError
from reasoner.io.atomic_files import keep_lines, remove_folder, remove_leftovers, replace_text
from reasoner.io.bounded_files import (
    LARGE_BYTES,
    check_entries,
    is_there,
    open_regular,
    parse_json,
    read_lines,
    read_object,
)
from reasoner.io.folder_lock import NAME as LOCK
from reasoner.io.folder_lock import Lock
from reasoner.io.metric_history import MetricHistory
from reasoner.io.serialization import to_json
from reasoner.models.run_models import FOLDER, recorded_step
from reasoner.runs.checkpoints import Checkpoints
from reasoner.runs.environment import describe
from reasoner.runs.folder import (
    IDENTITY,
    LOG,
    TIMELINE,
    Evaluated,
    RunFolder,
    check_room,
    iterate_metrics,
    read_evaluations,
)
from reasoner.runs.resuming.rules import KeyChange, check_identity, forgetting, loses_scores
from reasoner.runs.starts import FILE, environment_changes, read_starts, record_start


def repeated_steps(count: int) -> str:
    """What happens to `count` committed steps after the checkpoint that a run goes on from."""
    return (
        "1 committed step after it is made again" if count == 1 else f"{count} committed steps after it are made again"
    )


@dataclass(frozen=True, slots=True)
class Resume:
    """A run to go on with."""

    folder: Path
    changes: tuple[KeyChange, ...] = ()
    """of its configuration"""
    accept: bool = False
    """go on with reward sources that have changed, and forget the scores that are known"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run goes on. Its folder is locked."""

    folder: Path
    lock: Lock
    step: int
    """committed steps that it goes on from"""
    checkpoint: Path | None
    """of that step; None: the run starts from the beginning"""
    history: MetricHistory
    """The metrics of those steps."""
    evaluations: tuple[Evaluated, ...]
    """made until then"""
    repeated: int
    """committed steps after it, which are made again"""
    notes: tuple[str, ...]
    """why it is not the newest checkpoint, in sentences"""
    accept: bool = False
    """see `Resume`"""
    forgets: bool = False
    """whether the scores in the checkpoint are of reward sources that have changed"""

    def __str__(self) -> str:
        start = f"from {self.checkpoint.name}" if self.checkpoint else "from the beginning"
        repeats = f"; {repeated_steps(self.repeated)}" if self.repeated else ""
        return f"{start}{repeats}"

    @property
    def first_start(self) -> str:
        """The date of the run's first start, ISO 8601: a configuration of an older run does not have it."""
        return read_starts(self.folder)[0].at[:10]

    def check(self, identity: Mapping[str, str]) -> tuple[KeyChange, ...]:
        """Refuse to go on with another model, other data, plugins or another engine; returns what was accepted.

        Raises:
            UserError: with what was and what is.
        """
        before = read_object(self.folder / IDENTITY)
        changes = check_identity(self.folder, before, identity, accept=self.accept)
        return (*changes, forgetting()) if self.accept else ()

    def reopen(
        self,
        config_toml: str,
        identity: Mapping[str, str],
        chosen: Mapping[str, str],
        changes: Sequence[KeyChange],
        reserve_bytes: int,
    ) -> tuple[RunFolder, tuple[str, ...]]:
        """Cut the folder back to the place and open it; also returns what was out of the ordinary, in sentences.

        Args:
            config_toml: the configuration from here on.
            identity: what the run is made from, as `check` took it.
            chosen: see `open_run`.
            changes: of the configuration, and those that `check` returned.
            reserve_bytes: see `open_run`.

        Raises:
            UserError: the folder cannot be written, or its disk has less room than `reserve_bytes` without what the
                checkpoints there take already.
        """
        first, last = (starts := read_starts(self.folder))[0], starts[-1]
        environment = describe(chosen)
        moved = environment_changes(last.environment, environment)
        differs = "Results may differ in rounding from those of a run that was not interrupted."
        notes = (
            *self.notes,
            *self._forgotten,
            *([f"Since the last start: {' '.join(moved)} {differs}"] if moved else []),
        )
        try:
            self._cut()
            taken = sum(path.stat().st_size for path in self.folder.glob("checkpoints/**/*") if path.is_file())
            check_room(self.folder, reserve_bytes - taken)
            record_start(
                self.folder,
                environment,
                step=self.step,
                repeated=self.repeated,
                changes={change.key: [change.before, change.after] for change in changes},
                notes=notes,
            )
            replace_text(self.folder / "config.toml", config_toml)
            replace_text(self.folder / IDENTITY, to_json(identity, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"--resume {self.folder}: it cannot be written: {error.strerror or error}") from error
        evaluations = {evaluated.step: evaluated.evaluation for evaluated in self.evaluations}
        return RunFolder(self.folder, self.lock, self.history, evaluations, first.at), notes

    @property
    def _forgotten(self) -> tuple[str, ...]:
        if not self.forgets:
            return ()
        before = f"Rewards and evaluations up to step {self.step} are those of the sources as they were."
        return (f"The reward sources have changed: no score that was known is used. {before}",)

    def _cut(self) -> None:
        for name in ("", "rollouts", "not-finite", "checkpoints"):
            remove_leftovers(self.folder / name)
        checkpoints = Checkpoints(self.folder)
        checkpoints.keep([step for step in checkpoints.steps() if step <= self.step])
        if (recorded_step(self.folder / FOLDER) or 0) > self.step:
            remove_folder(self.folder / FOLDER)  # of steps that are made again, on a GPU not with the same bits
        (self.folder / TIMELINE).touch()  # runs of before it was kept have none
        for name in ("metrics.jsonl", "evaluations.jsonl", "warnings.jsonl", TIMELINE):
            keep_lines(self.folder / name, lambda line: _step_of(line) <= self.step)
        keep_lines(self.folder / FILE)
        for path in (*self.folder.glob("rollouts/*.parquet"), *self.folder.glob("not-finite/*.parquet")):
            if int(path.stem.partition("-")[2]) > self.step:
                path.unlink()


@contextmanager
def find_place(folder: Path, steps: int, *, accept: bool = False) -> Iterator[Place]:
    """Lock the run in `folder` and find where it goes on: at its newest checkpoint that is unharmed.

    Args:
        steps: how many it is to have in the end.
        accept: see `Resume`.

    Raises:
        UserError: there is no training run, another process works on it, it is finished, or it has no use of `steps`.
        DataError: its files are damaged and no checkpoint can be used, or there is something else than files in it.
    """
    if not is_there(folder / IDENTITY):
        raise UserError(
            f"--resume {folder}: nothing to resume, {IDENTITY} is missing: the folder is of an evaluation, "
            "or of a run that ended before it began."
        )
    check_entries(folder)
    for name in (LOCK, LOG):
        if is_there(folder / name):
            open_regular(folder / name).close()
    state, process = _status(folder)
    try:
        lock = Lock(folder)
    except BlockingIOError:
        raise UserError(
            f"--resume {folder}: the run is still going, as process {process}. Wait for its end, or end it "
            f"with `kill {process}`: it saves where it is."
        ) from None
    with lock:
        history = _history(folder)
        _check_steps(folder, steps, len(history), state)
        _check_lines(folder / "warnings.jsonl", "a warning")
        if is_there(folder / TIMELINE):
            _check_lines(folder / TIMELINE, "the timeline")
        step, notes = _newest(folder, len(history))
        committed, history = len(history), MetricHistory(islice(history, step or 0))
        yield Place(
            folder=folder,
            lock=lock,
            step=step or 0,
            checkpoint=None if step is None else Checkpoints(folder).at(step),
            history=history,
            evaluations=tuple(evaluated for evaluated in read_evaluations(folder) if evaluated.step <= (step or 0)),
            repeated=committed - (step or 0),
            notes=notes,
            accept=accept,
            forgets=accept or loses_scores(read_starts(folder), step or 0),
        )


def _history(folder: Path) -> MetricHistory:
    rows = iterate_metrics(folder)
    return MetricHistory({name: value for name, value in row.items() if name != "step"} for row in rows)


def _status(folder: Path) -> tuple[str, int]:
    """State, and the process that works on the run, or did."""
    status = read_object(folder / "status.json")
    state, process = status.get("state"), status.get("process")
    if not isinstance(state, str) or not isinstance(process, int):
        raise DataError(f"{folder / 'status.json'} is not what a run writes: it has no state or no process")
    return state, process


def _check_lines(path: Path, what: str) -> None:
    """They are cut back by their steps, when it is too late to refuse."""
    for number, line in enumerate(read_lines(path, LARGE_BYTES), 1):
        try:
            if line.endswith(b"\n"):
                _step_of(line)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: not {what} of a step: {error!r}"[:500]) from error


def _step_of(line: bytes) -> int:
    return int(parse_json(line)["step"])


def _check_steps(folder: Path, steps: int, committed: int, state: str) -> None:
    more = f"To train on: reasoner run --resume {quote(str(folder))} --steps N, with N above {committed}."
    if steps < committed:
        raise UserError(f"--resume {folder}: run.steps = {steps}, and {committed} steps are done already. {more}")
    if steps == committed and state == "finished":
        raise UserError(f"--resume {folder}: the run is finished, all its {committed} steps are done. {more}")


def _newest(folder: Path, committed: int) -> tuple[int | None, tuple[str, ...]]:
    """The step of the newest checkpoint that can be used, and why newer ones cannot; None: the run has done nothing
    that would be lost."""
    checkpoints = Checkpoints(folder)
    notes: list[str] = []
    for step in reversed(checkpoints.steps()):
        if step > committed:
            notes.append(f"The checkpoint of step {step} is not used: metrics.jsonl ends at step {committed}.")
            continue
        try:
            checkpoints.verify(step)
        except DataError as error:
            notes.append(f"The checkpoint of step {step} is damaged and not used: {error}.")
            continue
        return step, tuple(notes)
    if committed:
        why = " ".join(notes) or "It has none (run.keep_last was 0, or they were removed)."
        raise DataError(
            f"--resume {folder}: no checkpoint of its {committed} steps can be used. {why} To start it again: "
            f"reasoner run {quote(str(folder / 'config.toml'))}"
        )
    return None, tuple(notes)
