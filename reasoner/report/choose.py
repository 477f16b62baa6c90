"""Which saved responses a report holds: whole groups, all of them when they fit, otherwise spread over the run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from reasoner.errors import DataError
from reasoner.runs.rollouts import GroupIndex, index_groups

MOST_FILES = 400
"""rollout files of a run that are looked at, spread evenly: a long run has tens of thousands"""
_FILE = re.compile(r"(?P<kind>step|eval)-(?P<step>\d+)\.parquet")


@dataclass(frozen=True, slots=True)
class RolloutFile:
    """The responses of a training step or of an evaluation."""

    path: Path
    training: bool
    step: int
    groups: tuple[GroupIndex, ...]


@dataclass(frozen=True, slots=True)
class ChosenGroup:
    """A group that is in the report."""

    file: RolloutFile
    group: GroupIndex


def rollout_files(folder: Path, steps: int) -> tuple[list[RolloutFile], list[str]]:
    """A run's rollout files in order, and notes on those that were left out.

    Args:
        folder: the run folder.
        steps: committed steps; a file of a later one belongs to no committed step."""
    named = sorted(
        (int(match["step"]), match["kind"] == "step", path)
        for path in (folder / "rollouts").glob("*.parquet")
        if (match := _FILE.fullmatch(path.name)) and int(match["step"]) <= steps
    )
    looked_at = [named[at] for at in spread(len(named), MOST_FILES)]
    notes = []
    if len(looked_at) < len(named):
        notes.append(f"{folder.name}: {len(looked_at):,} of {len(named):,} rollout files were read, spread evenly.")
    files = []
    for step, training, path in looked_at:
        try:
            files.append(RolloutFile(path, training, step, tuple(index_groups(path))))
        except DataError as error:
            notes.append(f"{error}; its responses are left out.")
    return files, notes


def choose(files: Sequence[RolloutFile], budget: int) -> list[ChosenGroup]:
    """Groups with at most `budget` response tokens together (one group may exceed it), in the order of the files.

    Every file gives its first group, then its second, and so on; where a round does not fit any more, evenly spread
    files give theirs.
    """
    picked: list[tuple[int, int]] = []
    for round_ in count():
        places = [at for at, file in enumerate(files) if round_ < len(file.groups)]
        cost = sum(files[at].groups[round_].tokens for at in places)
        if not places:
            break
        if cost > budget:
            fitting = int(len(places) * budget / cost)
            picked += [(places[at], round_) for at in spread(len(places), fitting if picked else max(1, fitting))]
            break
        budget -= cost
        picked += [(at, round_) for at in places]
    return [ChosenGroup(files[at], files[at].groups[round_]) for at, round_ in sorted(picked)]


def spread(length: int, most: int) -> list[int]:
    """At most `most` of the indices below `length`, evenly spaced, the first and the last among them."""
    if length <= most:
        return list(range(length))
    if most <= 1:
        return [0] * most
    return [round(at * (length - 1) / (most - 1)) for at in range(most)]
