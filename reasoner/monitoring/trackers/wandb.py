"""The tracker `wandb`: Weights & Biases, online or offline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reasoner.errors import UserError
from reasoner.monitoring.trackers.installed import version_of
from reasoner.plugins.tracker_api import TrackedRun, TrackerKind

AXIS = "step"
"""the figures' x axis. Not W&B's own step, which cannot go back: a resumed run tells some steps again"""
UPLOAD_S = 120.0
"""seconds that the end of a run waits for uploads"""


class WandbOptions(BaseModel):
    """Options of `wandb`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(default="reasoner", min_length=1)
    """where the run is filed"""
    entity: str | None = None
    """user or team that owns the project; unset: the account's default"""
    mode: Literal["online", "offline"] = "online"
    """`offline`: everything stays in `wandb/` in the run folder, for `wandb sync`"""


def _preflight(options: WandbOptions) -> str:
    version = version_of("wandb")
    if options.mode == "online":
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise UserError(
                "wandb has no key: set WANDB_API_KEY, run `wandb login`, or stay on this machine with "
                "--set trackers.wandb.mode=offline"
            )
    return f"{options.mode}, project {options.project}, {version}"


class _Wandb:
    def __init__(self, run: TrackedRun, options: WandbOptions) -> None:
        if options.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        name = run.folder.name
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, finish_timeout=UPLOAD_S, finish_timeout_raises=True
        )
        self._run: Any = wandb.init(
            project=options.project,
            entity=options.entity,
            mode=options.mode,
            id=name,
            name=name,
            dir=run.folder,
            config=dict(run.settings),
            resume="allow",
            settings=settings,
        )
        self._run.define_metric(AXIS)
        self._run.define_metric("*", step_metric=AXIS)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({AXIS: step, **metrics})

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({AXIS: step, **figures})

    def finish(self, state: str) -> None:
        import wandb

        self._run.summary["state"] = state
        try:
            self._run.finish(exit_code=0 if state == "finished" else 1)
        finally:
            wandb.teardown()  # its service process would outlive the run


WANDB = TrackerKind("Weights & Biases, online or offline", WandbOptions, _preflight, _Wandb)
