"""Permission to run generated programs without a sandbox. The command line gives it, anew each time; no file can."""

from __future__ import annotations

import os

from reasoner.errors import ConfigError, MissingDependencyError
from reasoner.sandbox.base import Sandbox
from reasoner.sandbox.choose import UNSANDBOXED, open_sandbox

FLAG = "--allow-unsandboxed-code"
ALLOWED = "REASONER_ALLOW_UNSANDBOXED_CODE"
"""environment variable by which workers learn of it"""


def permit_unsandboxed(permitted: bool) -> None:
    """Give the permission to this process and those that it will start, or take it away."""
    if permitted:
        os.environ[ALLOWED] = "1"
    else:
        os.environ.pop(ALLOWED, None)


def permitted_sandbox(choice: str = "auto") -> Sandbox:
    """The sandbox that `open_sandbox` finds; none at all only if that is permitted.

    Raises:
        ConfigError: there is no such backend, or `none` was chosen without permission.
        MissingDependencyError: no sandbox works here; the message says what to install.
    """
    permitted = ALLOWED in os.environ
    if choice == UNSANDBOXED and not permitted:
        raise ConfigError(f"sandbox {UNSANDBOXED!r} runs generated programs as you; it needs the option {FLAG}.")
    try:
        return open_sandbox(choice)
    except MissingDependencyError as error:
        if choice == "auto" and permitted:
            return open_sandbox(UNSANDBOXED)
        raise MissingDependencyError(
            f"{error}\nTo run generated programs without any protection, as you: {FLAG}."
        ) from error
