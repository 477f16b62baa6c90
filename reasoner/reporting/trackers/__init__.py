"""The built-in trackers, registered through the same hook as a third party's. Each is one file."""

from __future__ import annotations

from collections.abc import Mapping

from reasoner.hookspecs import hookimpl
from reasoner.trackers_api import TrackerKind


@hookimpl
def register_trackers() -> Mapping[str, TrackerKind]:
    """All of them; docs/trackers.md has a section for each."""
    from reasoner.reporting.trackers.tensorboard import TENSORBOARD
    from reasoner.reporting.trackers.trackio import TRACKIO
    from reasoner.reporting.trackers.wandb import WANDB

    return {"tensorboard": TENSORBOARD, "wandb": WANDB, "trackio": TRACKIO}
