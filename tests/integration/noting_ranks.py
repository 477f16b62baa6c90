"""A plugin that notes what each rank does: micro-batches per pass over a batch, and the events that it is told of.

A line per note in the file that REASONER_RANK_NOTES names, which reaches other machines as every variable of ours does:
the rank, what it is, and the number or the event's name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reasoner import hookimpl
from reasoner.learning.batching.packing import MicroBatch
from reasoner.learning.deepspeed.engine import DeepspeedLearner

if "RANK" in os.environ:
    os.environ["NOTING_RANK"] = os.environ["RANK"]
_RANK = os.environ.get("NOTING_RANK", "")
"""this process's rank: the variable is not there any more where the file is executed again"""
_rounds = DeepspeedLearner._rounds


def _note(what: str, value: object) -> None:
    with Path(os.environ["REASONER_RANK_NOTES"]).open("a") as notes:
        notes.write(f"{_RANK} {what} {value}\n")


def rounds(learner: DeepspeedLearner, batches: Sequence[MicroBatch]) -> list[MicroBatch | None]:
    _note("batches", len(batches))
    return _rounds(learner, batches)


if _rounds.__name__ != "rounds":
    DeepspeedLearner._rounds = rounds  # type: ignore[assignment, method-assign]


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
