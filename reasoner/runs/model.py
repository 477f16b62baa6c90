"""The model of a run: after which step its weights are, and in which folder.

    model/                        written after the last step; run.json in it has the step
    checkpoints/step-000005/model   every step that has a checkpoint and has changed the weights

`model/` is of the run's end, until the run is resumed and trains on: from then on the newest checkpoint is newer.
Whatever takes, evaluates or describes a run's model asks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reasoner.bounded_files import SMALL_BYTES, is_folder, is_there, read_object
from reasoner.codec import to_json
from reasoner.errors import DataError, UserError
from reasoner.runs.checkpoints import Checkpoints

if TYPE_CHECKING:
    from reasoner.evaluation import Evaluation
    from reasoner.runs.saved import SavedRun

FOLDER, RECORD = "model", "run.json"
Which = int | Literal["last", "best"]


@dataclass(frozen=True, slots=True)
class RunModel:
    """Weights of a run."""

    step: int
    """committed steps behind them"""
    folder: Path

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter alone, as the checkpoints of a run with `[lora]` do."""
        return not is_there(self.folder / "config.json") and any(self.folder.glob("adapter-*.safetensors"))


def run_model(run: SavedRun, which: Which = "last") -> RunModel:
    """The run's model: after its newest step that is on the disk, or after another one.

    Args:
        which: `last`; `best`: the step with the best evaluation, as `run.keep_best` counts it; or a step.

    Raises:
        UserError: there are no such weights; the message names the steps that there are.
    """
    there = {step: folder for step, folder in model_folders(run.folder).items() if step <= run.steps}
    if not there:
        raise UserError(
            f"{run.folder} has no trained model: the run is {run.state} after {run.steps} steps, and no checkpoint of "
            "these is there."
        )
    step = max(there) if which == "last" else _best(run) if which == "best" else which
    if step not in there:
        of_best = ", which has the best evaluation," if which == "best" else ""
        raise UserError(
            f"{run.folder}: the weights after step {step}{of_best} are not there (run.keep_last, run.keep_best and "
            f"run.checkpoint_every say what is kept). There are those after step {_listed(there)}: --step {max(there)}."
        )
    return RunModel(step, there[step])


def model_folders(run_folder: Path) -> dict[int, Path]:
    """Step -> the folder with the weights after it, in order; `model/` before a checkpoint of the same step."""
    checkpoints = Checkpoints(run_folder)
    found = {step: checkpoints.at(step) / FOLDER for step in checkpoints.steps()}
    found = {step: folder for step, folder in found.items() if is_folder(folder)}
    step = recorded_step(run_folder / FOLDER)
    if step is not None:
        found[step] = run_folder / FOLDER
    return dict(sorted(found.items()))


def record_step(model_folder: Path, step: int) -> None:
    """Write into a model's folder after which step of its run it is."""
    (model_folder / RECORD).write_text(to_json({"step": step}) + "\n", encoding="utf-8")


def recorded_step(model_folder: Path) -> int | None:
    """What `record_step` wrote; None: nothing did.

    Raises:
        DataError: something else is there.
    """
    file = model_folder / RECORD
    if not is_there(file):
        return None
    step = read_object(file, SMALL_BYTES).get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise DataError(f"{file} does not name the step that the model is of")
    return step


def best_steps(evaluations: Mapping[int, Evaluation]) -> list[int]:
    """The evaluated steps after the start, best first (`Evaluation.quality`); of equal ones the later."""
    evaluated = [step for step in evaluations if step > 0]
    return sorted(evaluated, key=lambda step: (*evaluations[step].quality, step), reverse=True)


def _best(run: SavedRun) -> int:
    ranked = best_steps({evaluated.step: evaluated.evaluation for evaluated in run.evaluations})
    if not ranked:
        raise UserError(f"{run.folder}: no step after the start was evaluated (evaluation.every), so none is the best.")
    return ranked[0]


def _listed(steps: Iterable[int]) -> str:
    *others, last = map(str, steps)
    return f"{', '.join(others)} and {last}" if others else last
