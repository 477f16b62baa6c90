"""The folder of an evaluation: every scored group is in it when it is done, so that an interrupted one can be resumed.

<output>/20250131-120000-eval-math-500/
    plan.json           the parts, and what each is made from; written last at the start
    log.txt             what the terminal showed
    sampler-A.log       what the engine of a model printed
    results.json        all figures and comparisons, when everything is done
    math-500-A/         a part, the task with the first model: a run folder (`reasoner.runs.folder`)
        groups.jsonl    the scored groups so far, one line each; gone when the part is done
        evaluations.jsonl   has a line when the part is done
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, Self

from reasoner.benchmarks.parts import BenchmarkPart, identities
from reasoner.errors import DataError, RunError, UserError
from reasoner.evaluation.metrics import Evaluation
from reasoner.io.atomic_files import append_line, keep_lines, remove_leftovers, replace_text
from reasoner.io.bounded_files import LARGE_BYTES, SMALL_BYTES, check_entries, read_bytes
from reasoner.io.folder_lock import Lock
from reasoner.io.serialization import from_json, read_jsonl, to_json
from reasoner.loading import Resolved, load_config, to_toml
from reasoner.records import ScoredGroup
from reasoner.runs.checksums import differences
from reasoner.runs.find import find_evaluation
from reasoner.runs.folder import (
    CONFIG,
    MINIMUM_FREE,
    RunFolder,
    log_to,
    new_folder,
    read_evaluations,
    start_run,
)
from reasoner.runs.reader import PLAN, is_run
from reasoner.runs.rollouts import to_rollouts
from reasoner.runs.starts import FILE as STARTS

GROUPS, RESULTS, LOG = "groups.jsonl", "results.json", "log.txt"


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """A part as `plan.json` has it."""

    name: str
    """`math-500-A`: its folder"""
    letter: str
    """of the model"""
    identity: Mapping[str, str]
    """what its results depend on beside its configuration"""


class EvaluationFolder:
    """An evaluation's folder, held by this process alone."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self._lock = lock

    @cached_property
    def plan(self) -> tuple[PlannedPart, ...]:
        """The parts, in order."""
        path = self.folder / PLAN
        try:
            plan = from_json(read_bytes(path, LARGE_BYTES), tuple[PlannedPart, ...])
        except DataError as error:
            raise DataError(f"{path}: {str(error).removeprefix(f'{path} ')}") from error
        names = [planned.name for planned in plan]
        for name in names:
            if Path(name).name != name or name in ("", "..") or "\0" in name or names.count(name) > 1:
                raise DataError(f"{path}: {name[:80]!r} is not the name of a part")
        return plan

    @cached_property
    def configs(self) -> dict[str, Resolved]:
        """The configuration of every part by its name, in order."""
        files = {planned.name: self.folder / planned.name / CONFIG for planned in self.plan}
        for file in files.values():
            read_bytes(file, SMALL_BYTES)  # no link, no pipe
        return {name: load_config(file) for name, file in files.items()}

    def evaluation(self, name: str) -> Evaluation | None:
        """The figures of a part; None: it is not done."""
        folder = self.folder / name
        done = read_evaluations(folder) if is_run(folder) else []
        return done[0].evaluation if done else None

    def check(self, parts: Sequence[BenchmarkPart]) -> None:
        """Refuse to resume parts that are made from something else than before.

        Raises:
            UserError: with what was and what is.
        """
        before = {planned.name: planned.identity for planned in self.plan}
        changed = [
            f"{name}: {line}" for name, now in identities(parts).items() for line in differences(before[name], now)
        ]
        if changed:
            raise UserError(
                f"--resume {self.folder}: the files behind the evaluation have changed since it started, so its "
                f"results would be mixed:\n  "
                + "\n  ".join(changed)
                + "\nRestore the old files, or start a new evaluation."
            )

    def start(self, part: BenchmarkPart) -> RunFolder:
        """A part begins or is resumed; a line that was cut when the process was killed is removed."""
        folder = self.folder / part.name
        with self._writing(f"the start of {part.name}"):
            for name in (GROUPS, "evaluations.jsonl", STARTS):
                if (folder / name).exists():
                    keep_lines(folder / name)
            for place in (folder, folder / "rollouts"):
                remove_leftovers(place)
            return start_run(folder, to_toml(part.config), part.resources.facts)

    def groups(self, part: BenchmarkPart) -> list[ScoredGroup]:
        """The groups of a part that are committed."""
        path = self.folder / part.name / GROUPS
        return read_jsonl(path, ScoredGroup) if path.exists() else []

    def commit(self, part: BenchmarkPart, group: ScoredGroup) -> None:
        """Keep a scored group: after that it is not sampled again."""
        with self._writing(f"a group of {part.name}"):
            append_line(self.folder / part.name / GROUPS, to_json(group))

    def finish(
        self, part: BenchmarkPart, run: RunFolder, groups: Sequence[ScoredGroup], evaluation: Evaluation
    ) -> None:
        """The part is done."""
        with self._writing(f"the evaluation of {part.name}"):
            run.commit_evaluation(0, evaluation, to_rollouts(0, groups))
            (self.folder / part.name / GROUPS).unlink()

    def keep_results(self, results: Mapping[str, Any]) -> None:
        """Everything is done."""
        with self._writing("the results"):
            replace_text(self.folder / RESULTS, to_json(results, indent=2) + "\n")

    def log(self, text: str) -> None:
        """Append to `log.txt`, the first line with the time of day."""
        with self._writing(LOG):
            log_to(self.folder / LOG, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.close()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{what} cannot be written to {self.folder}: {error.strerror or error}. Everything done so far is "
                f"kept there: make room or repair the folder, then resume with `reasoner eval --resume "
                f"{quote(str(self.folder))}`."
            ) from error


def create(output: Path, parts: Sequence[BenchmarkPart]) -> EvaluationFolder:
    """A new folder below `output`, with everything that is known at the start.

    Raises:
        UserError: it cannot be created or written, or there is too little room.
    """
    tasks = list(dict.fromkeys(part.config.task for part in parts))
    what = tasks[0] if len(tasks) == 1 else f"{len(tasks)}-tasks"
    made_from = identities(parts)
    planned = [PlannedPart(part.name, part.letter, made_from[part.name]) for part in parts]
    with new_folder(output, f"eval-{what}", MINIMUM_FREE) as folder:
        lock = Lock(folder)
        for part in parts:
            (folder / part.name).mkdir()
            replace_text(folder / part.name / CONFIG, to_toml(part.config))
        replace_text(folder / PLAN, to_json(planned) + "\n")
        return EvaluationFolder(folder, lock)


def reopen(name: str) -> EvaluationFolder:
    """The folder of an evaluation that was started before: its path, or its name below `runs/`.

    Raises:
        UserError: there is none, or another process works on it.
        DataError: there is something else than files and folders in it.
    """
    folder = find_evaluation(name)
    if folder is None:
        raise UserError(f"{name} is not an evaluation that can be resumed: there is no {Path(name) / PLAN}.")
    check_entries(folder)
    try:
        return EvaluationFolder(folder, Lock(folder))
    except BlockingIOError:
        raise UserError(f"{folder}: another process works on this evaluation.") from None
