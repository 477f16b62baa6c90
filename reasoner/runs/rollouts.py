"""Scored groups as rows of a rollout file, and a quick look at such files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasoner.errors import DataError
from reasoner.io.bounded_files import LARGEST
from reasoner.io.parquet import read_columns, unstorable
from reasoner.records import Rollout, ScoredGroup

MAX_WHY = 500
"""characters of why a rollout cannot be written"""
LOOKED_AT = ["sample", "reward", "response.policy_mask", "response.finish_reason", "components"]


@dataclass(frozen=True, slots=True)
class GroupIndex:
    """Where a group is in its file, and its figures."""

    first: int
    """row of its first response, from 0"""
    responses: int
    tokens: int
    """of all its responses"""
    means: Mapping[str, float]
    """over its responses, by metric name: `reward/mean`, `reward/<source>/mean`, `response/length_mean`,
    `response/finished`"""


def to_rollouts(
    step: int,
    groups: Sequence[ScoredGroup],
    credits_R: Sequence[float] | None = None,
    weights_RT: Sequence[Sequence[float]] | None = None,
    dropped_N: Sequence[bool] | None = None,
) -> list[Rollout]:
    """One row per response.

    Args:
        credits_R: of each response that was trained on, in group order; None: of an evaluation.
        weights_RT: of the same.
        dropped_N: which groups were not trained on (`sampling.refills`); None: none.

    Raises:
        ValueError: not exactly one credit, or one row of weights, per response that was trained on.
    """
    dropped_N = [False] * len(groups) if dropped_N is None else dropped_N
    kept = [scored for scored, dropped in zip(groups, dropped_N, strict=True) if not dropped]
    responses = sum(len(scored.group.responses) for scored in kept)
    for name, values in (("a credit", credits_R), ("weights", weights_RT)):
        if values is not None and len(values) != responses:
            raise ValueError(f"each of {responses} responses that were trained on needs {name}, got {len(values)}")
    credit, weights = iter(credits_R or ()), iter(weights_RT or ())
    return [
        Rollout(
            step=step,
            problem=scored.group.problem,
            prompt_ids=scored.group.prompt_ids,
            sample=sample,
            response=response.without_routes(),
            components=scored.components[sample],
            reward=scored.rewards[sample],
            credit=None if dropped else next(credit, None),
            weights=None if dropped else next(weights, None),
            dropped=dropped,
        )
        for scored, dropped in zip(groups, dropped_N, strict=True)
        for sample, response in enumerate(scored.group.responses)
    ]


def storable_rollouts(rollouts: Sequence[Rollout]) -> tuple[list[Rollout], list[str]]:
    """The rollouts as they can be written, and what that cost, in sentences.

    A reward source's parts and note go where they hold what no file does, then the row that its problem was read from;
    a rollout that cannot be written even so is left out.
    """
    kept, notes = [], []
    for rollout in rollouts:
        if not (why := unstorable(rollout)):
            kept.append(rollout)
            continue
        said = f"not kept, it cannot be written: {why}"[:MAX_WHY]
        bare = tuple(replace(part, parts={}, note=said) for part in rollout.components)
        tried = replace(rollout, components=bare)
        if unstorable(tried):
            tried = replace(tried, problem=replace(rollout.problem, fields={}))
        left_out = bool(unstorable(tried))
        kept += [] if left_out else [tried]
        what = "it is left out" if left_out else "parts and notes of its scores are not kept"
        notes.append(f"problem {rollout.problem.id}, sample {rollout.sample}: {what}: {why}"[:MAX_WHY])
    return kept, notes


def index_groups(path: Path) -> list[GroupIndex]:
    """The groups of a rollout file in order, without reading what was written in them.

    Raises:
        DataError: the file cannot be read, or is none of rollouts.
    """
    try:
        table = read_columns(path, Rollout, LOOKED_AT).combine_chunks()
        if not len(table):
            return []
        response = table["response"].combine_chunks()
        lengths = pc.list_value_length(response.field("policy_mask")).to_pylist()
        written = _counts(response.field("policy_mask"))
        finished = pc.equal(response.field("finish_reason"), "stop").to_pylist()
        values = _components(table["components"].combine_chunks())
        samples, rewards = table["sample"].to_pylist(), table["reward"].to_pylist()
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as rollouts: {error}") from error
    starts = [row for row, sample in enumerate(samples) if sample == 0]
    files = []
    for first, end in pairwise([*starts, len(samples)]):
        columns: dict[str, list[float]] = {
            "response/length_mean": written[first:end],
            "response/finished": finished[first:end],
            "reward/mean": [reward for reward in rewards[first:end] if reward is not None and abs(reward) <= LARGEST],
        }
        for row in values[first:end]:
            for source, value in row.items():
                if abs(value) <= LARGEST:
                    columns.setdefault(f"reward/{source}/mean", []).append(value)
        means = {name: fmean(column) for name, column in columns.items() if column}
        files.append(GroupIndex(first, end - first, sum(lengths[first:end]), means))
    return files


def _counts(masks: Any) -> list[float]:
    """How many entries of each mask are True."""
    written = pc.fill_null(masks.flatten(), False).to_numpy(zero_copy_only=False)
    ends_N = np.cumsum(pc.list_value_length(masks).to_numpy())
    before = np.concatenate([[0], np.cumsum(written)])
    counts: list[float] = np.diff(before[ends_N], prepend=0).tolist()
    return counts


def _components(column: Any) -> list[dict[str, float]]:
    """Value by source of every response, where it has one."""
    inner = column.flatten()
    pairs = list(zip(inner.field("source").to_pylist(), inner.field("value").to_pylist(), strict=True))
    ends = pc.cumulative_sum(pc.list_value_length(column)).to_pylist()
    return [
        {source: value for source, value in pairs[start:end] if value is not None}
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
