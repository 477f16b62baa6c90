"""What a run has before its models: data, the run folder, the view, the ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from reasoner.config import Config
from reasoner.config.decisions import Decisions
from reasoner.distributed.ranks import ALONE, Ranks, open_ranks
from reasoner.errors import OutOfTimeError, ScoringError, state_after
from reasoner.launch.launcher import error_folder, report_folder
from reasoner.loading import Resolved, to_toml
from reasoner.monitoring.choose import open_view
from reasoner.monitoring.plain import PlainView
from reasoner.monitoring.tracking import Trackers
from reasoner.monitoring.view import View, Views
from reasoner.planning.describe import describe_checkpoints
from reasoner.planning.estimate import RunEstimate
from reasoner.planning.feasibility import refuse_impossible
from reasoner.planning.resources import Resources, load_resources
from reasoner.plugins import manager as plugins
from reasoner.plugins.events import Events
from reasoner.processes.stacks import forget_stacks, keep_stacks
from reasoner.runs.folder import RunFolder, open_run
from reasoner.runs.rank_folder import RankFolder
from reasoner.runs.resuming.resume import Place, repeated_steps
from reasoner.runs.resuming.rules import KeyChange


@dataclass(frozen=True)
class RunBase(Resources):
    """What every command has: data and models, the run folder and the view."""

    ranks: Ranks
    run: RunFolder
    view: View
    events: Events


@contextmanager
def open_base(
    resolved: Resolved, decisions: Decisions, ranks: Ranks, place: Place | None, changes: Sequence[KeyChange]
) -> Iterator[RunBase]:
    """Load data and folders, and open the run folder, or that of a run to resume, and the view.

    Raises:
        UserError: as `open_trainer`.
    """
    first_start = place.first_start if place else ""
    resources = load_resources(resolved, decisions, training=True, ranks=ranks, first_start=first_start)
    config, facts = resources.config, dict(resources.facts)
    estimate = resources.estimate
    refuse_impossible(estimate, nodes=None)
    tight = estimate.check()
    facts |= estimate.facts | {"checkpoints": describe_checkpoints(config.run, estimate.checkpoint_bytes)}
    if place:
        facts["resumed"] = str(place)
    with ExitStack() as stack:
        notes: Sequence[str] = ()
        if ranks.first:
            if place:
                identity = resources.identity()
                changes = (*changes, *place.check(identity))
                run, notes = place.reopen(to_toml(config), identity, facts, changes, resources.reserve_bytes)
                forget_stacks(run.folder)
            else:
                run = _new_run(resources, facts)
            stack.enter_context(run)
            view = stack.enter_context(open_view(sys.stdout, run.log, ranks.count))
            report_folder(run.folder)
            ranks.gather((run.folder, run.history, run.evaluations))
        else:
            nothing: tuple[Path, list[dict[str, float]], dict[int, Any]] = (Path(), [], {})
            run = stack.enter_context(RankFolder(*ranks.broadcast(nothing), ranks.index))
            view = stack.enter_context(Views(PlainView(run.log, ascii_only=False), ranks=ranks.count))
        view.started(facts | {"output": str(run.folder)}, config.run.steps)
        if run.history:
            view.resumed(run.history, list(run.evaluations.values()), config.run.steps)
        for note in (*notes, *map(str, changes), *(f"WARNING: {warning}" for warning in tight)):
            view.message(note)
        if ranks.count > 1:
            stack.enter_context(keep_stacks(run.folder))
        events = Events(None, view.message)  # plugins watch on the first rank, and would be told the same on others
        if ranks.first:
            events = stack.enter_context(watching(resources, run, view, tracked=True))
        try:
            parts = vars(resources) | {"config": _with_recomputation(config, estimate, ranks)}
            yield RunBase(**parts, ranks=ranks, run=run, view=view, events=events)
        except BaseException as error:
            view.message(_resume_hint(run, error))
            raise


def _with_recomputation(config: Config, estimate: RunEstimate, ranks: Ranks) -> Config:
    """With `learning.gradient_checkpointing` decided, where that is left open: on all ranks where one has no room."""
    if config.learning.gradient_checkpointing != "auto":
        return config
    recomputes = any(ranks.gather(bool(estimate.config.learning.gradient_checkpointing)))
    learning = config.learning.model_copy(update={"gradient_checkpointing": recomputes})
    return config.model_copy(update={"learning": learning})


def _new_run(resources: Resources, facts: Mapping[str, str]) -> RunFolder:
    config, identity = resources.config, resources.identity()
    output, reserve = Path(config.run.output), resources.reserve_bytes
    return open_run(output, config.task, to_toml(config), facts, identity=identity, reserve_bytes=reserve)


@contextmanager
def watching(resources: Resources, run: RunFolder, view: View, *, tracked: bool) -> Iterator[Events]:
    """Plugins and trackers that watch, told of the start and of the end."""
    trackers = Trackers(resources.config.trackers if tracked else {}, plugins.trackers(resources.manager), view.message)
    events = Events(resources.manager, view.message, {"trackers": trackers})
    settings = resources.config.model_dump()
    events.emit("run_started", folder=run.folder, settings=settings, first_step=run.steps + 1)
    ended_by: BaseException | None = None
    try:
        yield events
    except BaseException as error:
        ended_by = error
        raise
    finally:
        events.emit("run_finished", folder=run.folder, state=state_after(ended_by))


def _resume_hint(run: RunFolder, error: BaseException) -> str:
    """What an unfinished run leaves, and how to resume it."""
    how: str = state_after(error)
    if isinstance(error, OutOfTimeError):
        how += f", because {error}"
    saved = run.checkpoints.steps()
    advice = " (after repairing a reward source, add --accept-changes)" if isinstance(error, ScoringError) else ""
    if not saved:
        return f"{how}: {run.steps} committed steps are in {run.folder}; there is no checkpoint to resume from"
    repeated = "" if saved[-1] == run.steps else f" ({repeated_steps(run.steps - saved[-1])})"
    return f"{how}: to resume from step {saved[-1]}{repeated}: reasoner run --resume {quote(str(run.folder))}{advice}"


@contextmanager
def open_rank_group(config: Config, decisions: Decisions) -> Iterator[Ranks]:
    """The ranks of a training run, which must agree on everything that decides what they do.

    Raises:
        UserError: they do not.
    """
    if decisions.learner == "torch":
        yield ALONE
        return
    own = error_folder()
    with (
        keep_stacks(own) if own else nullcontext(),
        open_ranks(decisions.device, config.learning.sequence_parallel) as ranks,
    ):
        ranks.agree(_flat(config.model_dump()) | {"model.device": decisions.device})
        yield ranks


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat
