"""The models that a run wrote, by the names of their folders.

model/                          written after the last step; run.json in it has the step
checkpoints/step-000005/model   every step that has a checkpoint and has changed the weights
"""

from __future__ import annotations

import re
from pathlib import Path

from reasoner.errors import DataError
from reasoner.io.bounded_files import SMALL_BYTES, is_folder, is_there, read_object
from reasoner.io.serialization import to_json

FOLDER, RECORD = "model", "run.json"
CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step-(\d{6,})")


def checkpoint_steps(run_folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order; none of them was verified."""
    folder = run_folder / CHECKPOINTS
    entries = folder.iterdir() if folder.exists() else ()
    return sorted(int(match[1]) for entry in entries if (match := _STEP.fullmatch(entry.name)))


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run_folder / CHECKPOINTS / f"step-{step:06}"


def model_folders(run_folder: Path) -> dict[int, Path]:
    """Step -> the folder with the weights after it, in order; `model/` before a checkpoint of the same step."""
    folders = {step: checkpoint_folder(run_folder, step) / FOLDER for step in checkpoint_steps(run_folder)}
    folders = {step: folder for step, folder in folders.items() if is_folder(folder)}
    step = recorded_step(run_folder / FOLDER)
    if step is not None:
        folders[step] = run_folder / FOLDER
    return dict(sorted(folders.items()))


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
