"""The built-in trackers, registered through the same hook as a third party's.

tensorboard.py, trackio.py, wandb.py   one file each
installed.py                           whether a tracker's library is there
"""

from __future__ import annotations

from collections.abc import Mapping

from reasoner.plugins.hookspecs import hookimpl
from reasoner.plugins.tracker_api import TrackerKind


@hookimpl
def register_trackers() -> Mapping[str, TrackerKind]:
    """All of them; docs/trackers.md has a section for each."""
    from reasoner.monitoring.trackers.tensorboard import TENSORBOARD
    from reasoner.monitoring.trackers.trackio import TRACKIO
    from reasoner.monitoring.trackers.wandb import WANDB

    return {"tensorboard": TENSORBOARD, "wandb": WANDB, "trackio": TRACKIO}
