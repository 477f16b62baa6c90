"""Errors that a user can act on.

Every message says what was wrong, what was got, and what to do. `UserError` means that the input must change (exit
code 2); `RunError` means that a run that started could not go on (exit code 1); `OutOfTimeError` ends a run that can be
gone on with (exit code 3). Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal


class ReasonerError(Exception):
    """Base of all errors that this project raises on purpose."""


class UserError(ReasonerError, ValueError):
    """The input must change: nothing was started, nothing was lost."""


class ConfigError(UserError):
    """A configuration key is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(UserError):
    """A data source is missing, empty or malformed; the message names the line and the field."""


class MissingDependencyError(ReasonerError, ImportError):
    """An optional package is needed and not installed; the message says what to install."""


class RunError(ReasonerError, RuntimeError):
    """A run that started cannot go on; what was committed is on disk."""


class OutOfTimeError(ReasonerError):
    """A run ended before its last step because its time is up: everything is saved, and it can be gone on with."""


class SamplerError(RunError):
    """The sampler did not start, died, or returned something that cannot be trained on."""


class HandoverError(RunError):
    """The sampler does not hold the weights that the learner published."""


class ScoringError(RunError):
    """A reward source failed too often for the rewards to mean anything."""


class EnvironmentsError(RunError):
    """Tools and environments cannot be called any more, or environments fail too often for the responses to mean
    anything."""


class ToolError(ReasonerError):
    """A tool refuses a call: the message is for the policy, which reads it as the result."""


EndState = Literal["finished", "stopped", "interrupted", "failed"]
"""how a run ended"""


def state_after(error: BaseException | None) -> EndState:
    """How a run ended that `error` ended; None: nothing did."""
    if error is None:
        return "finished"
    if isinstance(error, OutOfTimeError):
        return "stopped"
    return "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest allowed name, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
