"""The tracker `trackio`: a local database that `trackio show` makes a dashboard of."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from reasoner.monitoring.trackers.installed import version_of
from reasoner.plugins.tracker_api import TrackedRun, TrackerKind


class TrackioOptions(BaseModel):
    """Options of `trackio`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(default="reasoner", min_length=1)
    """where the run is filed"""


def _preflight(options: TrackioOptions) -> str:
    return f"project {options.project}, {version_of('trackio')}"


class _Trackio:
    def __init__(self, run: TrackedRun, options: TrackioOptions) -> None:
        import trackio

        self._trackio: Any = trackio
        with _quiet():
            self._run: Any = trackio.init(
                project=options.project,
                name=run.folder.name,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def finish(self, state: str) -> None:
        with _quiet():
            level = self._trackio.AlertLevel.INFO if state == "finished" else self._trackio.AlertLevel.WARN
            self._run.alert(title=f"run {state}", level=level)
            self._trackio.finish()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It prints where it keeps its data, into the view of the run."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


TRACKIO = TrackerKind("a local database for `trackio show`", TrackioOptions, _preflight, _Trackio)
