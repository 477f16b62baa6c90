"""A plugin that notes what each rank does: micro-batches per pass over a batch, and the events that it is told of.

A line per note in the file that REASONER_RANK_NOTES names, which reaches other machines as every variable of ours does:
the rank, what it is, and the number or the event's name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reasoner import hookimpl

if TYPE_CHECKING:
    from reasoner.learning.batching.packing import MicroBatch
    from reasoner.learning.deepspeed.engine import DeepspeedLearner

_RANK = os.environ.get("RANK", "")
"""this process's; the launcher is none, and hosts of workers, which a rank starts later, do not get the variable"""


def _note(what: str, value: object) -> None:
    with Path(os.environ["REASONER_RANK_NOTES"]).open("a") as notes:
        notes.write(f"{_RANK} {what} {value}\n")


def note_batches() -> None:
    """For ranks: launcher and hosts execute this file, too, and would take seconds to import the learner."""
    from reasoner.learning.deepspeed.engine import DeepspeedLearner

    rounds = DeepspeedLearner._rounds

    def noted(learner: DeepspeedLearner, batches: Sequence[MicroBatch]) -> list[MicroBatch | None]:
        _note("batches", len(batches))
        return rounds(learner, batches)

    DeepspeedLearner._rounds = noted  # type: ignore[assignment, method-assign]


if _RANK:
    note_batches()


@hookimpl
def run_started() -> None:
    _note("event", "run_started")


@hookimpl
def groups_scored() -> None:
    _note("event", "groups_scored")


@hookimpl
def step_finished(step: int) -> None:
    _note("event", "step_finished")
    if step == 2:
        raise ZeroDivisionError("only watching")


@hookimpl
def run_finished(state: str) -> None:
    _note("event", f"run_{state}")
