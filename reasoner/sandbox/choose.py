"""Which sandbox there is: the best that was seen to hold."""

from __future__ import annotations

from functools import cache

from reasoner.errors import ConfigError, MissingDependencyError, nearest
from reasoner.sandbox.backends.bubblewrap import bubblewrap
from reasoner.sandbox.backends.sandlock import sandlock
from reasoner.sandbox.backends.unsandboxed import unsandboxed
from reasoner.sandbox.base import Sandbox, SandboxError
from reasoner.sandbox.proof import answers, prove

BACKENDS = {"bubblewrap": bubblewrap, "sandlock": sandlock}
"""best first: bubblewrap hides everything else where sandlock forbids it, and starts faster (docs/code.md)"""
UNSANDBOXED = "none"


def open_sandbox(choice: str = "auto") -> Sandbox:
    """The sandbox with this name, or the best one here; proven by trying, once per process.

    Args:
        choice: `auto`, the name of a backend, the address of a service (`https://.../run_code` of a SandboxFusion,
            `https://.../execute` of a Piston), or `none` for no isolation at all.

    Raises:
        ConfigError: there is no such backend or service.
        MissingDependencyError: none works here; the message says why, and what to install.
        SandboxError: the service does not answer, or not as it should.
    """
    if choice == UNSANDBOXED:
        return unsandboxed()
    if "://" in choice:
        return _service(choice)
    if choice not in ("auto", *BACKENDS):
        names = ("auto", *BACKENDS, UNSANDBOXED)
        raise ConfigError(
            f"there is no sandbox {choice!r}; there are {', '.join(names)}, and addresses.{nearest(choice, names)}"
        )
    reasons = []
    for name in BACKENDS if choice == "auto" else (choice,):
        outcome = _proven(name)
        if not isinstance(outcome, str):
            return outcome
        reasons.append(f"{name}: {outcome}")
    raise MissingDependencyError("no sandbox for generated programs works here\n  " + "\n  ".join(reasons))


@cache
def _proven(name: str) -> Sandbox | str:
    """The sandbox, or why it cannot be used."""
    try:
        sandbox = BACKENDS[name]()
        faults = prove(sandbox)
    except (MissingDependencyError, SandboxError) as error:
        return str(error)
    return f"does not hold here: {'; '.join(faults)}" if faults else sandbox


@cache
def _service(url: str) -> Sandbox:
    from reasoner.sandbox.backends.http import HttpSandbox  # every command imports this file, few need HTTP

    try:
        sandbox = HttpSandbox(url)
    except ValueError as error:
        raise ConfigError(f"the sandbox {url!r}: {error}") from None
    if fault := answers(sandbox):
        raise SandboxError(f"{sandbox.name} {fault}")
    return sandbox
