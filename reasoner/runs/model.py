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

from reasoner.errors import UserError
from reasoner.io.bounded_files import is_there
from reasoner.models.run_models import model_folders

if TYPE_CHECKING:
    from reasoner.evaluation.metrics import Evaluation
    from reasoner.runs.reader import SavedRun

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
    folders = {step: folder for step, folder in model_folders(run.folder).items() if step <= run.steps}
    if not folders:
        raise UserError(
            f"{run.folder} has no trained model: the run is {run.state} after {run.steps} steps, and no checkpoint of "
            "these is there."
        )
    step = max(folders) if which == "last" else _best(run) if which == "best" else which
    if step not in folders:
        of_best = ", which has the best evaluation," if which == "best" else ""
        raise UserError(
            f"{run.folder}: the weights after step {step}{of_best} are not there (run.keep_last, run.keep_best and "
            f"run.checkpoint_every say what is kept). There are those after step "
            f"{_join_steps(folders)}: --step {max(folders)}."
        )
    return RunModel(step, folders[step])


def best_steps(evaluations: Mapping[int, Evaluation]) -> list[int]:
    """The evaluated steps after the start, best first (`Evaluation.quality`); of equal ones the later."""
    evaluated = [step for step in evaluations if step > 0]
    return sorted(evaluated, key=lambda step: (*evaluations[step].quality, step), reverse=True)


def _best(run: SavedRun) -> int:
    ranked = best_steps({evaluated.step: evaluated.evaluation for evaluated in run.evaluations})
    if not ranked:
        raise UserError(f"{run.folder}: no step after the start was evaluated (evaluation.every), so none is the best.")
    return ranked[0]


def _join_steps(steps: Iterable[int]) -> str:
    *others, last = map(str, steps)
    return f"{', '.join(others)} and {last}" if others else last
