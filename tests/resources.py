"""A run's data and models as a command reads them."""

from __future__ import annotations

from reasoner.loading import Resolved
from reasoner.planning.decide import decide
from reasoner.planning.resources import Resources, load_resources


def resources_of(resolved: Resolved, *, training: bool) -> Resources:
    return load_resources(resolved, decide(resolved.config, training=training), training=training)
