"""When a run writes a checkpoint, what is in it, and which ones stay.

A checkpoint holds the run as it was between two steps: a step was committed and evaluated where that was due, and
nothing of the next one has begun. What has to be kept beside the weights each part says itself (`Stateful`); data
order, seeds and schedules are functions of the step and of the metrics, and need no state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reasoner.config import RunConfig
from reasoner.distributed.ranks import Ranks, part_of
from reasoner.errors import RunError
from reasoner.io.bounded_files import LARGE_BYTES, read_json
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.io.serialization import to_json
from reasoner.runs.folder import RunFolder
from reasoner.runs.model import best_steps
from reasoner.scoring.service import ScoringService
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import StepRollouts

STATE_FILE = "state.json"
CRITIC = "critic"
"""folder of the critic in a checkpoint"""
SCORING = "scoring"
"""the scoring service among the parts"""
AHEAD_FILE = "ahead.parquet"
"""the next steps' groups, where they are sampled ahead"""
PARTIAL_FILES = "partial-*.parquet"
"""groups that are not complete, of every rank"""
SHARE = 0.02
"""of the time, for checkpoints, where `run.checkpoint_every` leaves it open"""


class Restorable(Protocol):
    """Something that takes its state back."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned, in another process; called once, before the first step."""
        ...


class Stateful(Restorable, Protocol):
    """A part of a run whose state a resumed run needs, to continue as if it had never stopped."""

    def mark(self) -> None:
        """A step is committed: from now on `state` gives the state of this moment. Called after every step, so it must
        not take longer with more data or a longer history."""
        ...

    def state(self) -> dict[str, Any]:
        """The state at the last `mark`, in JSON values, for a checkpoint."""
        ...


class KeepsGroups(Protocol):
    """Keeps groups that are not complete from step to step (`sampling.over_sample`)."""

    def save_kept(self, file: Path) -> None:
        """Write those of this rank, as they were at the last `Stateful.mark`; none: no file."""
        ...

    def load_kept(self, files: Sequence[Path]) -> None:
        """Take back what all ranks wrote, perhaps another number of them; after `Stateful.restore`."""
        ...


class Trained(Protocol):
    """The learner, or the critic."""

    @property
    def version(self) -> int:
        """Optimiser steps behind the weights; it changes before they do."""
        ...

    def checkpoint(self, folder: Path) -> None:
        """Write everything that is needed to resume exactly."""
        ...


@dataclass
class CheckpointManager:
    """Writes the checkpoints of one run."""

    config: RunConfig
    run: RunFolder
    ranks: Ranks
    """all of them call the methods; the first one decides, and writes but for the known scores"""
    learner: Trained
    critic: Trained | None
    """every rank has one that is equal"""
    scoring: ScoringService | None
    """its calls count when they are made, whatever becomes of the step: it needs no `mark`"""
    parts: Mapping[str, Stateful]
    """by name; every checkpoint has a state of each"""
    prefetcher: Prefetcher
    """samples beside the update: while it is under way it changes the parts' states"""
    say: Callable[[str], None]
    """shows a sentence"""
    per_engine: int = 1
    """neighbouring ranks that have an engine together: the first of them makes the calls of reward sources"""
    groups: KeepsGroups | None = None
    """keeps groups that are not complete from step to step; None: there are none"""
    _versions: tuple[int, ...] = ()
    """of the models, after the last committed step; empty: the parts' states after it are not known"""
    _ranked: tuple[int, list[int]] = (0, [])
    """how many evaluations there were when their steps were ranked, and these"""
    _prefetched: tuple[StepRollouts, ...] = ()
    """for the next steps, after the last committed one"""
    _written: float = field(default_factory=lambda: time.perf_counter())
    """when the last checkpoint was"""
    _seconds: float = 0.0
    """that it took"""

    def restore(self, checkpoint: Path, *, forget_scores: bool = False) -> None:
        """Give every part but the models, which read it themselves, its state back.

        Args:
            checkpoint: its folder.
            forget_scores: leave out the known scores, and the groups that were scored ahead: other ones are sampled.

        Raises:
            RunError: the checkpoint is of a run with other parts, or a part does not find what it needs.
        """
        states = self._own(read_json(checkpoint / STATE_FILE, LARGE_BYTES))
        parts: dict[str, Restorable] = {**self.parts}
        if self.scoring:
            parts[SCORING] = self.scoring
        if set(states) != set(parts):
            raise RunError(
                f"{checkpoint} holds the state of {', '.join(sorted(states))}, and this run has "
                f"{', '.join(sorted(parts))}: it was written by another version of reasoner or its plugins"
            )
        for name, part in parts.items():
            try:
                part.restore(states[name])
            except KeyError as error:
                raise RunError(
                    f"{checkpoint / STATE_FILE} does not hold {error} of the part {name!r}: it was written by another "
                    "version of reasoner or its plugins. Resume the run with that version, or start a new one"
                ) from error
        if self.scoring and not forget_scores:
            self.scoring.load_scores(checkpoint / self._scores_file)
        if self.groups:
            self.groups.load_kept(sorted(checkpoint.glob(PARTIAL_FILES)))
        if (checkpoint / AHEAD_FILE).exists() and not forget_scores:
            self.prefetcher.restore(read_parquet(checkpoint / AHEAD_FILE, StepRollouts))
        self.committed()

    def committed(self) -> None:
        """A step was committed: what an interruption of the next one goes back to."""
        if not self.prefetcher.is_settled:  # the parts have gone on, and what they went on to is not there to be kept
            self._versions = ()
            return
        for part in self.parts.values():
            part.mark()
        self._versions, self._prefetched = self._now(), self.prefetcher.ready

    def save_if_due(self) -> None:
        """Write a checkpoint of the last committed step, unless it has one or it is not yet time.

        Raises:
            RunError: the disk is full.
        """
        if self.config.keep_last and self.ranks.broadcast(not self._is_saved and self._is_due):
            self.prefetcher.wait()
            self.committed()  # an evaluation came after the step
            self._save()

    def save_on_exit(self, *, collective: bool = False) -> None:
        """Something ends the run before its time: save the last committed step, where nothing has changed the weights
        since. Calls of reward sources that were made since count, and their scores are kept.

        Args:
            collective: all ranks are here. One of several cannot save anything: the others may be gone.
        """
        if not self.config.keep_last or (self.ranks.count > 1 and not collective):
            return
        try:
            if collective:
                self.prefetcher.wait()
                self.committed()
            if not self._versions or self.ranks.broadcast(self._is_saved):
                return
            if self._versions != self._now():
                self.say(f"the weights have changed since step {self.run.steps}: it cannot be saved any more")
                return
            self._save()
        except RunError as error:
            self.say(str(error))

    def finish(self) -> None:
        """The run is done: its last checkpoint stays, to train on from, and the best ones."""
        if self.config.keep_last:
            self.run.keep_checkpoints({self.run.steps, *self._best()})

    @property
    def seconds(self) -> float:
        """What the last checkpoint took."""
        return self._seconds

    @property
    def _is_saved(self) -> bool:
        return self.run.checkpoints.at(self.run.steps).exists()

    @property
    def _is_due(self) -> bool:
        step, every = self.run.steps, self.config.checkpoint_every
        if step in (0, self.config.steps) or step in self._best():
            return True
        if every is not None:
            return step % every == 0
        return time.perf_counter() - self._written >= self._seconds / SHARE

    @property
    def _scores_file(self) -> str:
        return f"scores-{self.ranks.index}.parquet"

    def _own(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """This rank's states of those of all ranks; another number of ranks divides what they called, as the budgets
        of these calls are divided."""
        if len(states) == self.ranks.count:
            return states[self.ranks.index]
        made: Counter[str] = Counter()
        for state in states:
            made.update(state.get(SCORING, {}).get("made", {}))
        shared = {source: part_of(calls, self.ranks, self.per_engine) for source, calls in made.items()}
        return states[0] | ({SCORING: {"made": shared}} if SCORING in states[0] else {})

    def _now(self) -> tuple[int, ...]:
        return self.learner.version, self.critic.version if self.critic else 0

    def _save(self) -> None:
        started = time.perf_counter()
        own = {name: part.state() for name, part in self.parts.items()}
        states = self.ranks.gather(own | ({SCORING: self.scoring.state()} if self.scoring else {}))
        with self.run.saving_checkpoint() as written:
            folder = self.ranks.broadcast(written)
            if self.scoring:
                self.scoring.save_scores(folder / self._scores_file)
            if self.groups:
                self.groups.save_kept(folder / PARTIAL_FILES.replace("*", str(self.ranks.index)))
            self.learner.checkpoint(folder)
            if self.ranks.first:
                (folder / STATE_FILE).write_text(to_json(states) + "\n", encoding="utf-8")
            if self.ranks.first and self._prefetched:
                write_parquet(folder / AHEAD_FILE, self._prefetched)
            if self.ranks.first and self.critic:
                (folder / CRITIC).mkdir()
                self.critic.checkpoint(folder / CRITIC)
            self.ranks.gather(None)  # all have written
        self._written = time.perf_counter()
        self._seconds = self._written - started
        self.run.keep_checkpoints({*self.run.checkpoints.steps()[-self.config.keep_last :], *self._best()})

    def _best(self) -> set[int]:
        """The steps with the best evaluations."""
        if self._ranked[0] != len(self.run.evaluations):
            self._ranked = len(self.run.evaluations), best_steps(self.run.evaluations)
        return set(self._ranked[1][: self.config.keep_best])
