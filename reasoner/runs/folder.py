"""One run's folder: opened once or gone on with, written atomically, committed step by step.

    <output>/20250131-120000-math-gsm8k/
        config.toml         resolved and complete: starting from it reproduces the run
        identity.json       checksums of what it was made from (`reasoner.runs.checksums`)
        environment.json    versions, hardware, what was chosen and why, at the last start
        starts.jsonl        one `Start` per start, with its environment
        status.json         running, finished, stopped, interrupted or failed, and why; steps and seconds so far
        metrics.jsonl       one object per committed step (`reasoner.monitoring.metrics` names the keys)
        gate.json           what the untrained policy gets right of a few training problems (`TrainingGate`)
        evaluations.jsonl   one `Evaluated` per evaluation
        warnings.jsonl      one object per warning: step, name, what was seen, what to try
        timeline.jsonl      one object per step: who worked when (`StepTimeline`)
        rollouts/           step-000010.parquet, eval-000010.parquet: every response with its scores
        not-finite/         step-000010.parquet: the responses of an update that was not finite (`NonFiniteResponse`)
        checkpoints/        step-000020/: what a resumed run goes on from (`reasoner.runs.checkpoints`)
        model/              the trained model in Hugging Face format, and its step (`reasoner.runs.model`)
        log.txt             what the terminal showed, without colours

A step is committed by its line in `metrics.jsonl`, written last and synced. Rollouts without that line are not.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any, Self

from reasoner.errors import DataError, RunError, UserError, state_after
from reasoner.evaluation.metrics import Evaluation
from reasoner.evaluation.training_gate import TrainingGate
from reasoner.io.atomic_files import append_line, replace_text, replacing_folder, sync
from reasoner.io.bounded_files import LARGEST, SMALL_BYTES, is_there, parse_json, read_lines, read_object, read_text
from reasoner.io.folder_lock import Lock
from reasoner.io.metric_history import MetricHistory
from reasoner.io.parquet import write_parquet
from reasoner.io.redaction import redact
from reasoner.io.safe_text import printable
from reasoner.io.serialization import from_json, read_jsonl, to_json
from reasoner.models.run_models import FOLDER, record_step
from reasoner.records import NonFiniteResponse, Rollout
from reasoner.runs.checkpoints import Checkpoints
from reasoner.runs.clock import Clock
from reasoner.runs.environment import describe, now
from reasoner.runs.rollouts import storable_rollouts
from reasoner.runs.starts import ENVIRONMENT, record_start

CONFIG, IDENTITY, LOG, GATE = "config.toml", "identity.json", "log.txt", "gate.json"
TIMELINE = "timeline.jsonl"
METRICS_BYTES = 2 * 2**30
"""of metrics and of evaluations; a step has some 3 kB of metrics"""
MOST_PROBLEMS = 200_000
"""of an evaluation: their differences are resampled thousands of times"""
MINIMUM_FREE = 256 * 2**20
"""bytes; metrics, logs and rollouts of a small run"""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A line of `evaluations.jsonl`."""

    step: int
    """optimised steps before it; 0: before training"""
    evaluation: Evaluation


class RunFolder:
    """A run folder that is being written. Leaving the context records how the run ended."""

    def __init__(
        self,
        folder: Path,
        lock: Lock,
        history: Iterable[Mapping[str, float]] = (),
        evaluations: Mapping[int, Evaluation] | None = None,
        started: str = "",
    ) -> None:
        """
        Args:
            folder: with everything that is written at the start.
            lock: of the folder; the run lets it go at its end.
            history: the metrics of the steps that are committed already.
            evaluations: those that were made already, by step.
            started: when the run was started for the first time; empty: now.
        """
        self.folder = folder
        self.clock = Clock()
        self.model_folder = folder / FOLDER
        self.log_file = folder / LOG
        self.checkpoints = Checkpoints(folder)
        self.history = MetricHistory(history)
        """the metrics of every committed step, as `metrics.jsonl` has them"""
        self.evaluations = dict(evaluations or {})
        """by step"""
        self._lock = lock
        self._started = started or now()
        self._status("running", "")

    @property
    def steps(self) -> int:
        """How many are committed."""
        return len(self.history)

    def add_fact(self, name: str, fact: str) -> None:
        """Add what was found out after the start to the facts in `environment.json`.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing(ENVIRONMENT):
            environment = read_object(self.folder / ENVIRONMENT)
            environment["chosen"][name] = redact(fact)
            replace_text(self.folder / ENVIRONMENT, to_json(environment, indent=2) + "\n")

    def commit(self, step: int, metrics: Mapping[str, float], rollouts: Sequence[Rollout]) -> None:
        """Write the step's rollouts, then its metrics line: after that the step is committed.

        A metric that is not finite is written as null: JSON has no NaN.

        Raises:
            RunError: the disk is full or the folder is gone; the steps before are on disk.
        """
        if step != self.steps + 1:
            raise ValueError(f"steps are committed in order: expected {self.steps + 1}, got {step}")
        figures = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        with self._writing(f"step {step}"):
            if rollouts:  # a step on offline data alone sampled none
                self._write_rollouts(step, f"step-{step:06}.parquet", rollouts)
            append_line(self.folder / "metrics.jsonl", to_json({"step": step, **figures}))
        self.history.append(as_read(metrics))
        with self._writing("status.json"):
            self._status("running", "")

    def commit_evaluation(self, step: int, evaluation: Evaluation, rollouts: Sequence[Rollout]) -> None:
        """Keep an evaluation made after `step` steps, and its responses.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing(f"the evaluation after step {step}"):
            if rollouts:  # an evaluation on held-out offline data alone sampled none
                self._write_rollouts(step, f"eval-{step:06}.parquet", rollouts)
            append_line(self.folder / "evaluations.jsonl", to_json(Evaluated(step, evaluation)))
        self.evaluations[step] = evaluation

    def commit_gate(self, gate: TrainingGate) -> None:
        """Keep what the gate before training found.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing(GATE):
            replace_text(self.folder / GATE, to_json(gate) + "\n")

    @contextmanager
    def saving_checkpoint(self) -> Iterator[Path]:
        """Yield a folder to write in; it becomes the checkpoint of the last committed step.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing(f"the checkpoint of step {self.steps}"), self.checkpoints.writing(self.steps) as folder:
            yield folder

    def warn(self, warnings: Sequence[Any]) -> None:
        """Keep warnings of a step that is about to be committed.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing("warnings.jsonl"):
            for warning in warnings:
                append_line(self.folder / "warnings.jsonl", to_json(warning))

    def keep_timeline(self, timeline: Any) -> None:
        """Keep who worked when in a step that is about to be committed.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing(TIMELINE):
            append_line(self.folder / TIMELINE, to_json(timeline))

    def keep_nonfinite(self, step: int, nonfinite: Sequence[NonFiniteResponse]) -> Path:
        """Keep the responses of an update that was not finite; returns their file.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        file = self.folder / "not-finite" / f"step-{step:06}.parquet"
        with self._writing(f"the responses of step {step}, which was not finite,"):
            file.parent.mkdir(exist_ok=True)
            write_parquet(file, nonfinite)
        return file

    @contextmanager
    def saving_model(self) -> Iterator[Path]:
        """Yield a folder to save the trained model in; it becomes `model/` when everything is written."""
        with self._writing("the model"), replacing_folder(self.model_folder) as folder:
            yield folder
            record_step(folder, self.steps)

    def keep_checkpoints(self, steps: Collection[int]) -> None:
        """Remove the checkpoints of all other steps."""
        with self._writing("the removal of old checkpoints"):
            self.checkpoints.keep(steps)

    def log(self, text: str) -> None:
        """Append to `log.txt`, the first line with the time of day.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing("log.txt"):
            log_to(self.log_file, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if error is None:
                self._status("finished", "")
                return
            try:
                self._status(state_after(error), f"{type(error).__name__}: {error}")
            except OSError as unwritable:
                error.add_note(f"The run's end could not be written to {self.folder}: {unwritable.strerror}.")

    def _write_rollouts(self, step: int, name: str, rollouts: Sequence[Rollout]) -> None:
        """What a reward source wrote must not end the run: where it cannot be written, it is left out and warned of."""
        path = self.folder / "rollouts" / name
        try:
            write_parquet(path, rollouts)
        except DataError:
            kept, notes = storable_rollouts(rollouts)
            if kept:
                write_parquet(path, kept)
            what = f"{len(notes)} of the {len(rollouts)} responses in {name} could not be written as they are"
            advice = f"Look at what the reward sources return. {notes[0]}"
            self.warn([{"step": step, "name": "rollouts", "what": what, "advice": advice}])
            self.log("\n".join([f"warning: {what}", *notes]))

    def _status(self, state: str, reason: str) -> None:
        status = {
            "state": state,
            "reason": redact(reason),
            "committed_steps": self.steps,
            "started": self._started,
            "ended": None if state == "running" else now(),
            "process": os.getpid(),
            "seconds": asdict(self.clock.read()),
        }
        replace_text(self.folder / "status.json", to_json(status, indent=2) + "\n")

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{what} cannot be written to {self.folder}: {error.strerror or error}. "
                f"{self.steps} steps are committed there; make room or repair the folder, then resume with "
                f"`reasoner run --resume {quote(str(self.folder))}`."
            ) from error


def open_run(
    output: Path,
    task: str,
    config_toml: str,
    chosen: Mapping[str, str],
    *,
    identity: Mapping[str, str] | None = None,
    reserve_bytes: int = MINIMUM_FREE,
) -> RunFolder:
    """Create the run's folder below `output` and write what is known at the start.

    Args:
        chosen: what was decided and why, for `environment.json` (see `environment.describe`).
        identity: what the run is made from (see `checksums.identify`); None: nobody will go on with it.
        reserve_bytes: free space that the run will need at least: rollouts, and the model that it saves.

    Raises:
        UserError: the folder cannot be created or written, or has less free space than that.
    """
    with new_folder(output, task, reserve_bytes) as folder:
        (folder / "checkpoints").mkdir()
        run = start_run(folder, config_toml, chosen)
        if identity:  # last: with it there is a run to go on with
            replace_text(folder / IDENTITY, to_json(identity, indent=2) + "\n")
        return run


@contextmanager
def new_folder(output: Path, name: str, reserve_bytes: int) -> Iterator[Path]:
    """Yield a new folder below `output`, `20250131-120000-<name>`, to write in; then it is on the disk.

    Raises:
        UserError: it cannot be created or written, or has less free space than `reserve_bytes`.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        check_room(output, reserve_bytes)
        folder = _create_folder(output, f"{datetime.now():%Y%m%d-%H%M%S}-{name}")
        try:
            yield folder
        except UserError:  # it cannot be locked
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sync(output)
    except OSError as error:
        raise UserError(
            f"run.output = {str(output)!r} cannot be written: {error.strerror or error}; "
            "choose another folder with --output"
        ) from error


def start_run(folder: Path, config_toml: str, chosen: Mapping[str, str]) -> RunFolder:
    """Write what is known at the start into a folder that is there.

    Raises:
        OSError: it cannot be written.
    """
    lock = Lock(folder)
    for name in ("metrics.jsonl", "evaluations.jsonl", "warnings.jsonl", TIMELINE, "log.txt"):
        (folder / name).touch()
    (folder / "rollouts").mkdir(exist_ok=True)
    replace_text(folder / CONFIG, config_toml)
    record_start(folder, describe(chosen))
    return RunFolder(folder, lock)


def log_to(file: Path, text: str) -> None:
    """Append to a log, the first line with the time of day."""
    indented = printable(text).rstrip().replace("\n", "\n" + " " * 9)  # people `cat` it
    with file.open("a", encoding="utf-8") as log:
        log.write(f"{datetime.now():%H:%M:%S} {indented}\n")


def record_failure(folder: Path, reason: str) -> bool:
    """Write down that a run failed whose own process could not know it; whether there is a checkpoint to go on from."""
    file = folder / "status.json"
    status = read_object(file)
    if status["state"] not in ("finished", "stopped"):
        status |= {"state": "failed", "reason": redact(reason), "ended": status["ended"] or now()}
        replace_text(file, to_json(status, indent=2) + "\n")
        log_to(folder / LOG, f"failed: {redact(reason)}")
    return bool(Checkpoints(folder).steps())


def check_room(folder: Path, reserve_bytes: int) -> None:
    """Refuse to start without as much free space as the run will need at least.

    Raises:
        UserError: there is less.
    """
    free = shutil.disk_usage(folder).free
    if free < reserve_bytes:
        raise UserError(
            f"{folder} has {free / 2**30:.2f} GiB free and the run needs at least {reserve_bytes / 2**30:.2f} GiB; "
            "make room, choose another folder with --output, or keep fewer checkpoints with --set run.keep_last=1"
        )


def as_read(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics as `read_metrics` gives them back: NaN where they are not finite, or too large to be added up."""
    return {
        key: value if value is not None and -LARGEST <= value <= LARGEST else math.nan for key, value in metrics.items()
    }


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of every committed step (`iterate_metrics`).

    Raises:
        DataError: no such file, or a malformed line.
    """
    return [*iterate_metrics(folder)]


def iterate_metrics(folder: Path) -> Iterator[dict[str, float]]:
    """The metrics of one committed step after the other, `step` included, which is the number of the line; null is read
    as NaN.

    The last line may have been cut by a kill; it has no newline then, was not committed, and is left out.

    Raises:
        DataError: no such file, or a malformed line.
    """
    path = folder / "metrics.jsonl"
    for number, line in enumerate(read_lines(path, METRICS_BYTES, SMALL_BYTES), 1):
        if line.endswith(b"\n"):
            yield _metrics(path, number, line)


def read_evaluations(folder: Path) -> list[Evaluated]:
    """All evaluations of a run, in the order they were made.

    Raises:
        DataError: no such file, or a line that is no evaluation.
    """
    path = folder / "evaluations.jsonl"
    evaluations = read_jsonl(path, Evaluated, appended=True, most=METRICS_BYTES)
    for number, evaluated in enumerate(evaluations, 1):
        for estimate in evaluated.evaluation.figures:
            figures = (estimate.value, estimate.low or 0.0, estimate.high or 0.0, *estimate.by_problem.values())
            if len(figures) > MOST_PROBLEMS or max(map(abs, figures)) > LARGEST:
                raise DataError(f"{path}, line {number}: {estimate.name[:80]!r} is not a figure of an evaluation.")
    return evaluations


def read_gate(folder: Path) -> TrainingGate | None:
    """What the gate before training found; None: there was none.

    Raises:
        DataError: the file is malformed.
    """
    path = folder / GATE
    if not is_there(path):
        return None
    text = read_text(path, SMALL_BYTES)
    try:
        gate = from_json(text, TrainingGate)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    figures = [figure for figure in (gate.pass_1, gate.pass_group, gate.signal) if figure is not None]
    if not all(
        0.0 <= bound <= 1.0 for figure in figures for bound in (figure.value, figure.low or 0.0, figure.high or 0.0)
    ):
        raise DataError(f"{path}: a share of responses, problems or groups is not between 0 and 1.")
    return gate


def _metrics(path: Path, number: int, line: bytes) -> dict[str, float]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not a JSON object with numbers: {error}") from error
    if not isinstance(row, dict) or not all(value is None or isinstance(value, int | float) for value in row.values()):
        raise DataError(f"{path}, line {number}: not a JSON object with numbers, got {str(row)[:80]}")
    if row.get("step") != number:
        raise DataError(f"{path}, line {number}: the steps must be 1, 2, 3, ... in order; got {row.get('step')}")
    return as_read(row)


def _create_folder(output: Path, name: str) -> Path:
    """`name`, or `name-2`, `name-3`, ... when two runs start in the same second."""
    for number in range(1, 1000):
        folder = output / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, f"{output / name} and 998 more exist")
