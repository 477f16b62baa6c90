"""The tracker `tensorboard`: event files in the run folder. `tensorboard --logdir runs` shows all runs beside each
other."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from reasoner.errors import MissingDependencyError
from reasoner.monitoring.trackers.installed import version_of
from reasoner.plugins.tracker_api import TrackedRun, TrackerKind

FOLDER = "tensorboard"
"""in the run folder"""


class TensorboardOptions(BaseModel):
    """`tensorboard` has no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _preflight(options: TensorboardOptions) -> str:
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch, whose event writer it uses, is not installed")
    return f"{FOLDER}/ in the run folder, {version_of('tensorboard')}"


class _Tensorboard:
    def __init__(self, run: TrackedRun, options: TensorboardOptions) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier part of the run told from its first step on is dropped by the reader.
        purge = run.first_step if run.first_step > 1 else None
        self._writer: Any = SummaryWriter(str(run.folder / FOLDER), purge_step=purge)
        if purge is None:
            settings = json.dumps(run.settings, indent=2, ensure_ascii=False, default=str)
            self._writer.add_text("settings", f"```json\n{settings}\n```")
        self._last = run.first_step - 1

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step, metrics)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._add(step, figures)

    def finish(self, state: str) -> None:
        self._writer.add_text("state", state, self._last)
        self._writer.close()

    def _add(self, step: int, figures: Mapping[str, float]) -> None:
        self._last = step
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


TENSORBOARD = TrackerKind("event files in the run folder", TensorboardOptions, _preflight, _Tensorboard)
