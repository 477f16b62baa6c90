"""One run's folder: opened once, written atomically, committed step by step.

    <output>/20250131-120000-math-gsm8k/
        config.toml         resolved and complete: starting from it reproduces the run
        environment.json    versions, hardware, what was chosen and why
        status.json         running, finished, failed or interrupted, and why
        metrics.jsonl       one object per committed step (`reasoner.reporting.metrics` names the keys)
        evaluations.jsonl   one `Evaluated` per evaluation
        warnings.jsonl      one object per warning: step, name, what was seen, what to try
        rollouts/           step-000010.parquet, eval-000010.parquet: every response with its scores
        not-finite/         step-000010.parquet: the responses of an update that was not finite (`Suspect`)
        model/              the trained model in Hugging Face format
        log.txt             what the terminal showed, without colours

A step is committed by its line in `metrics.jsonl`, written last and synced. Rollouts without that line are not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reasoner.atomic import append_line, replace_text, replacing_folder, sync
from reasoner.codec import read_jsonl, to_json, write_parquet
from reasoner.errors import DataError, RunError, UserError
from reasoner.evaluation import Evaluation
from reasoner.records import Rollout, Suspect
from reasoner.runs.environment import describe
from reasoner.secrets import redact

MINIMUM_FREE = 256 * 2**20
"""bytes; metrics, logs and rollouts of a small run"""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A line of `evaluations.jsonl`."""

    step: int
    """optimised steps before it; 0: before training"""
    evaluation: Evaluation


class Run:
    """A run folder that is being written. Leaving the context records how the run ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model_folder = folder / "model"
        self.log_file = folder / "log.txt"
        self._steps = 0
        self._started = _now()
        self._status("running", "")

    def commit(self, step: int, metrics: Mapping[str, float], rollouts: Sequence[Rollout]) -> None:
        """Write the step's rollouts, then its metrics line: after that the step is committed.

        A metric that is not finite is written as null: JSON has no NaN.

        Raises:
            RunError: the disk is full or the folder is gone; the steps before are on disk.
        """
        if step != self._steps + 1:
            raise ValueError(f"steps are committed in order: expected {self._steps + 1}, got {step}")
        figures = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        with self._writing(f"step {step}"):
            if rollouts:  # a step on offline data alone sampled none
                write_parquet(self.folder / "rollouts" / f"step-{step:06}.parquet", rollouts)
            append_line(self.folder / "metrics.jsonl", to_json({"step": step, **figures}))
        self._steps = step

    def commit_evaluation(self, step: int, evaluation: Evaluation, rollouts: Sequence[Rollout]) -> None:
        """Keep an evaluation made after `step` steps, and its responses.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing(f"the evaluation after step {step}"):
            write_parquet(self.folder / "rollouts" / f"eval-{step:06}.parquet", rollouts)
            append_line(self.folder / "evaluations.jsonl", to_json(Evaluated(step, evaluation)))

    def warn(self, warnings: Sequence[Any]) -> None:
        """Keep warnings of a step that is about to be committed.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        with self._writing("warnings.jsonl"):
            for warning in warnings:
                append_line(self.folder / "warnings.jsonl", to_json(warning))

    def keep_suspects(self, step: int, suspects: Sequence[Suspect]) -> Path:
        """Keep the responses of an update that was not finite; returns their file.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        file = self.folder / "not-finite" / f"step-{step:06}.parquet"
        with self._writing(f"the responses of step {step}, which was not finite,"):
            file.parent.mkdir(exist_ok=True)
            write_parquet(file, suspects)
        return file

    @contextmanager
    def saving_model(self) -> Iterator[Path]:
        """Yield a folder to save the trained model in; it becomes `model/` when everything is written."""
        with self._writing("the model"), replacing_folder(self.model_folder) as folder:
            yield folder

    def log(self, text: str) -> None:
        """Append to `log.txt`, the first line with the time of day.

        Raises:
            RunError: the disk is full or the folder is gone.
        """
        indented = text.rstrip().replace("\n", "\n" + " " * 9)
        with self._writing("log.txt"), self.log_file.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now():%H:%M:%S} {indented}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._status("finished", "")
            return
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        try:
            self._status("interrupted" if interrupted else "failed", f"{type(error).__name__}: {error}")
        except OSError as unwritable:
            error.add_note(f"The run's end could not be written to {self.folder}: {unwritable.strerror}.")

    def _status(self, state: str, reason: str) -> None:
        status = {
            "state": state,
            "reason": redact(reason),
            "committed_steps": self._steps,
            "started": self._started,
            "ended": None if state == "running" else _now(),
            "process": os.getpid(),
        }
        replace_text(self.folder / "status.json", json.dumps(status, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{what} cannot be written to {self.folder}: {error.strerror or error}. "
                f"{self._steps} steps are committed there; make room or mend the folder, then start again."
            ) from error


def open_run(
    output: Path, task: str, config_toml: str, chosen: Mapping[str, str], reserve_bytes: int = MINIMUM_FREE
) -> Run:
    """Create the run's folder below `output` and write what is known at the start.

    Args:
        chosen: what was decided and why, for `environment.json` (see `environment.describe`).
        reserve_bytes: free space that the run will need at least: rollouts, and the model that it saves.

    Raises:
        UserError: the folder cannot be created or written, or has less free space than that.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output).free
        if free < reserve_bytes:
            raise UserError(
                f"run.output = {str(output)!r} has {free / 2**30:.2f} GiB free and the run needs at least "
                f"{reserve_bytes / 2**30:.2f} GiB; make room or choose another folder with --output"
            )
        folder = _new_folder(output, f"{datetime.now():%Y%m%d-%H%M%S}-{task}")
        (folder / "rollouts").mkdir()
        replace_text(folder / "config.toml", config_toml)
        environment = json.dumps(describe(chosen), indent=2, ensure_ascii=False)
        replace_text(folder / "environment.json", environment + "\n")
        for name in ("metrics.jsonl", "evaluations.jsonl", "warnings.jsonl", "log.txt"):
            (folder / name).touch()
        sync(output)
        return Run(folder)
    except OSError as error:
        raise UserError(
            f"run.output = {str(output)!r} cannot be written: {error.strerror or error}; "
            "choose another folder with --output"
        ) from error


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of every committed step, `step` included; null is read as NaN.

    The last line may have been cut by a kill; it has no newline then, was not committed, and is left out.

    Raises:
        DataError: no such file, or a malformed line.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return [_metrics(path, number, line) for number, line in enumerate(lines, 1) if line.endswith(b"\n")]


def read_evaluations(folder: Path) -> list[Evaluated]:
    """All evaluations of a run, in the order they were made."""
    return read_jsonl(folder / "evaluations.jsonl", Evaluated)


def _metrics(path: Path, number: int, line: bytes) -> dict[str, float]:
    try:
        values: Any = json.loads(line)
        return {key: math.nan if value is None else value for key, value in values.items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}, line {number}: not a JSON object with numbers: {error}") from error


def _new_folder(output: Path, name: str) -> Path:
    """`name`, or `name-2`, `name-3`, ... when two runs start in the same second."""
    for number in range(1, 1000):
        folder = output / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, f"{output / name} and 998 more exist")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
