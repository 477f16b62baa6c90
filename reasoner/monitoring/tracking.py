"""The trackers of a run: told what the hooks tell, each on its own, so that none of them can harm the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reasoner.errors import ConfigError, MissingDependencyError, UserError, nearest
from reasoner.evaluation.metrics import Evaluation
from reasoner.io.redaction import without_secrets
from reasoner.plugins.hookspecs import hookimpl
from reasoner.plugins.options import check_options
from reasoner.plugins.tracker_api import TrackedRun, Tracker, TrackerKind

Configured = Mapping[str, Mapping[str, Any]]
"""`[trackers]`: options by name"""


def check_trackers(configured: Configured, kinds: Mapping[str, TrackerKind]) -> None:
    """Refuse trackers that are not registered and options that they do not have.

    Raises:
        ConfigError: with the key, the value and the nearest valid name.
    """
    for name, options in configured.items():
        try:
            kind = kinds[name]
        except KeyError:
            raise ConfigError(
                f"trackers.{name}: there is no tracker {name!r}.{nearest(name, kinds)} "
                f"Registered: {', '.join(sorted(kinds)) or 'none'}."
            ) from None
        check_options(f"trackers.{name}: the tracker", kind.options, options)


def preflight_trackers(configured: Configured, kinds: Mapping[str, TrackerKind]) -> dict[str, str]:
    """What each tracker says before anything is loaded, in one line.

    Raises:
        UserError: its library or what it needs is not there; the message says what to install or set.
    """
    lines = {}
    for name, options in configured.items():
        try:
            lines[name] = kinds[name].preflight(kinds[name].options.model_validate(dict(options)))
        except (UserError, MissingDependencyError) as error:
            raise UserError(f"tracker {name!r} cannot work here: {error}") from error
        except Exception as error:
            raise UserError(f"tracker {name!r}: preflight failed: {type(error).__name__}: {error}") from error
    return lines


class Trackers:
    """A plugin that hands a run's events on to its trackers.

    One that raises is reported once and told nothing more.
    """

    def __init__(self, configured: Configured, kinds: Mapping[str, TrackerKind], report: Callable[[str], None]) -> None:
        self._configured, self._kinds, self._report = configured, kinds, report
        self._open: dict[str, Tracker] = {}

    @hookimpl
    def run_started(self, folder: Path, settings: Mapping[str, Any], first_step: int) -> None:
        """Open all of them."""
        run = TrackedRun(folder, settings["task"], without_secrets(settings), first_step)
        for name, options in self._configured.items():
            kind = self._kinds[name]
            try:
                self._open[name] = kind.open(run, kind.options.model_validate(dict(options)))
            except Exception as error:
                self._give_up(name, error)

    @hookimpl
    def step_finished(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell all of them."""
        self._tell(lambda tracker: tracker.step(step, metrics))

    @hookimpl
    def evaluation_finished(self, step: int, evaluation: Evaluation) -> None:
        """Tell all of them."""
        figures = {f"evaluation/{estimate.name}": estimate.value for estimate in evaluation.figures}
        self._tell(lambda tracker: tracker.evaluation(step, figures))

    @hookimpl
    def run_finished(self, state: str) -> None:
        """Close all of them."""
        self._tell(lambda tracker: tracker.finish(state))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                what(tracker)
            except Exception as error:
                del self._open[name]
                self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._report(
            f"tracker {name} failed and gets no further figures: {type(error).__name__}: {error}. The run continues; "
            "metrics.jsonl has everything."
        )
