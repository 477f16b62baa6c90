"""Tells plugins what happens in a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import pluggy


class Events:
    """Tells plugins what happens in a run. A plugin that raises is reported and does not stop anything, and what it
    draws from the process's random generators changes nothing: other ranks, where it is not called, draw the same.

    `followers` are told too, after the plugins; they are objects with hooks, by the name that reports give them.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager | None,
        report: Callable[[str], None],
        followers: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """`manager`: None: nobody is told, as on every rank but the first."""
        self._hooks = manager.hook if manager else None
        self._report = report
        for name, follower in followers.items():
            assert manager is not None
            manager.register(follower, name=name)

    def emit(self, event: str, **values: object) -> None:
        """Call every implementation of an event with those of the values that it takes."""
        calls = getattr(self._hooks, event).get_hookimpls() if self._hooks else ()
        if not calls:
            return
        with _generators_kept():
            for call in calls:
                try:
                    call.function(**{name: values[name] for name in call.argnames})
                except Exception as error:
                    self._report(f"{call.plugin_name}: {event} failed: {type(error).__name__}: {error}")


@contextmanager
def _generators_kept() -> Iterator[None]:
    """The generators from which a run's credits and links may draw are afterwards as they were."""
    import numpy as np
    import torch

    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)
