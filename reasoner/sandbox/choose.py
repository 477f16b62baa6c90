"""Which sandbox there is."""

from __future__ import annotations

from reasoner.errors import ConfigError, MissingDependencyError, nearest
from reasoner.sandbox.base import Sandbox
from reasoner.sandbox.bubblewrap import bubblewrap
from reasoner.sandbox.sandlock import sandlock
from reasoner.sandbox.unsandboxed import unsandboxed

BACKENDS = {"bubblewrap": bubblewrap, "sandlock": sandlock}
"""best first"""
UNSANDBOXED = "none"


def open_sandbox(choice: str = "auto") -> Sandbox:
    """The sandbox with this name, or the best that works here.

    Args:
        choice: `auto`, the name of a backend, or `none` for no isolation at all.

    Raises:
        ConfigError: there is no such backend.
        MissingDependencyError: it does not work here; the message says what to install.
    """
    if choice == UNSANDBOXED:
        return unsandboxed()
    if choice not in ("auto", *BACKENDS):
        names = ("auto", *BACKENDS, UNSANDBOXED)
        raise ConfigError(f"there is no sandbox {choice!r}; there are {', '.join(names)}.{nearest(choice, names)}")
    reasons = []
    for name, make in BACKENDS.items():
        if choice in ("auto", name):
            try:
                return make()
            except MissingDependencyError as error:
                reasons.append(f"{name}: {error}")
    raise MissingDependencyError("no sandbox for generated programs works here: " + "; ".join(reasons))
