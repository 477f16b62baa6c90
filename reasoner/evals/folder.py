"""The folder of an evaluation: every scored group is in it when it is done, so that an interrupted one goes on there.

    <output>/20250131-120000-eval-math-500/
        plan.json           the parts, and what each is made from; written last at the start
        environment.json    versions, hardware, what was chosen
        log.txt             what the terminal showed
        sampler-A.log       what the engine of a model printed
        results.json        all figures and comparisons, when everything is done
        math-500/A/         a part: the task with the first model
            config.toml             resolved and complete
            groups.jsonl            the scored groups so far, one line each; gone when the part is done
            rollouts/eval-000000.parquet    every response with its scores
            evaluations.jsonl       the figures; it is there when the part is done

A part's folder has a run folder's files under their names, so that `reasoner score` takes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reasoner.atomic import append_line, keep_lines, replace_text, sync
from reasoner.codec import from_json, read_jsonl, to_json, write_jsonl, write_parquet
from reasoner.errors import RunError, UserError
from reasoner.evals.parts import Part
from reasoner.evaluation import Evaluation
from reasoner.records import ScoredGroup
from reasoner.runs.checksums import differences
from reasoner.runs.environment import describe
from reasoner.runs.folder import MINIMUM_FREE, Evaluated, check_room, new_folder, read_evaluations
from reasoner.runs.lock import Lock
from reasoner.runs.rollouts import to_rollouts
from reasoner.settings import Resolved, load_config, to_toml

PLAN, CONFIG, GROUPS = "plan.json", "config.toml", "groups.jsonl"
EVALUATIONS, RESULTS, LOG = "evaluations.jsonl", "results.json", "log.txt"


@dataclass(frozen=True, slots=True)
class Planned:
    """A part as `plan.json` has it."""

    name: str
    """`math-500/A`: its folder"""
    identity: Mapping[str, str]
    """what its results depend on beside its configuration (`Part.identity`)"""


class EvaluationFolder:
    """An evaluation's folder, held by this process alone."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self._lock = lock

    def commit(self, part: Part, group: ScoredGroup) -> None:
        """Keep a scored group: after that it is not sampled again."""
        with self._writing(f"a group of {part.name}"):
            append_line(self.folder / part.name / GROUPS, to_json(group))

    def groups(self, part: Part) -> list[ScoredGroup]:
        """The groups of a part that are committed; a last line that a kill cut is removed."""
        path = self.folder / part.name / GROUPS
        if not path.exists():
            return []
        keep_lines(path)
        return read_jsonl(path, ScoredGroup)

    def finish(self, part: Part, groups: Sequence[ScoredGroup], evaluation: Evaluation) -> None:
        """The part is done."""
        folder = self.folder / part.name
        with self._writing(f"the evaluation of {part.name}"):
            (folder / "rollouts").mkdir(exist_ok=True)
            write_parquet(folder / "rollouts" / "eval-000000.parquet", to_rollouts(0, groups, None))
            write_jsonl(folder / EVALUATIONS, [Evaluated(0, evaluation)])
            (folder / GROUPS).unlink()

    def evaluation(self, name: str) -> Evaluation | None:
        """The figures of a part; None: it is not done."""
        return (
            read_evaluations(self.folder / name)[0].evaluation if (self.folder / name / EVALUATIONS).exists() else None
        )

    def keep_results(self, results: Mapping[str, Any]) -> None:
        """Everything is done."""
        with self._writing("the results"):
            replace_text(self.folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")

    def log(self, text: str) -> None:
        """Append to `log.txt`, the first line with the time of day."""
        indented = text.rstrip().replace("\n", "\n" + " " * 9)
        with self._writing(LOG), (self.folder / LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now():%H:%M:%S} {indented}\n")

    @cached_property
    def configs(self) -> dict[str, Resolved]:
        """The configuration of every part by its name, in order."""
        return {planned.name: load_config(self.folder / planned.name / CONFIG) for planned in read_plan(self.folder)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{what} cannot be written to {self.folder}: {error.strerror or error}. What was done is kept there: "
                f"make room or mend the folder, then go on with `reasoner eval --resume {self.folder}`."
            ) from error


def create(output: Path, parts: Sequence[Part], chosen: Mapping[str, str]) -> EvaluationFolder:
    """A new folder below `output`, with everything that is known at the start.

    Args:
        chosen: what was decided and why, for `environment.json`.

    Raises:
        UserError: it cannot be created or written, or there is too little room.
    """
    tasks = list(dict.fromkeys(part.config.task for part in parts))
    what = tasks[0] if len(tasks) == 1 else f"{len(tasks)}-tasks"
    planned = [Planned(part.name, part.identity()) for part in parts]
    try:
        output.mkdir(parents=True, exist_ok=True)
        check_room(output, MINIMUM_FREE)
        folder = new_folder(output, f"{datetime.now():%Y%m%d-%H%M%S}-eval-{what}")
        lock = Lock(folder)
        for part in parts:
            (folder / part.name).mkdir(parents=True)
            replace_text(folder / part.name / CONFIG, to_toml(part.config))
        environment = json.dumps(describe(chosen), indent=2, ensure_ascii=False)
        replace_text(folder / "environment.json", environment + "\n")
        replace_text(folder / PLAN, to_json(planned) + "\n")
        sync(output)
    except OSError as error:
        raise UserError(
            f"run.output = {str(output)!r} cannot be written: {error.strerror or error}; "
            "choose another folder with --output"
        ) from error
    return EvaluationFolder(folder, lock)


def reopen(folder: Path) -> EvaluationFolder:
    """The folder of an evaluation that was started before.

    Raises:
        UserError: it is none, or another process works on it.
    """
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder} is no evaluation to go on with: there is no {folder / PLAN}.")
    try:
        return EvaluationFolder(folder, Lock(folder))
    except BlockingIOError:
        raise UserError(f"{folder}: another process works on this evaluation.") from None


def read_plan(folder: Path) -> list[Planned]:
    """The parts of an evaluation, in order."""
    return list(from_json((folder / PLAN).read_bytes(), tuple[Planned, ...]))


def check_identity(folder: Path, parts: Sequence[Part]) -> None:
    """Refuse to go on with parts that are made from something else than they were.

    Raises:
        UserError: with what has changed.
    """
    before = {planned.name: planned.identity for planned in read_plan(folder)}
    changed = [f"  {part.name}: {line}" for part in parts for line in differences(before[part.name], part.identity())]
    if changed:
        raise UserError(
            f"{folder} cannot be gone on with, its results would be mixed:\n" + "\n".join(changed) + "\n"
            "Start a new evaluation, or undo the change."
        )
