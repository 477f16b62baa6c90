"""The responses of a batch by their rows, and their shares over the ranks.

A response has one index from the batch to the gradient, its *row*: its place among the R responses of the batch in
group order. What is left out, sharded or packed keeps its row, so that weights and log-probabilities need no
translation. Ranks get whole groups, balanced by the tokens that go through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import accumulate
from typing import Protocol

from reasoner.distributed.ranks import ALONE, Ranks, share
from reasoner.distributed.remote_tokens import fetch
from reasoner.errors import RunError
from reasoner.io.token_array import RemoteArray, digest_of
from reasoner.records import Group, Response


@dataclass(frozen=True, slots=True)
class GroupRows:
    """Those responses of a group that go through the model."""

    group: Group
    first: int
    """The row of the group's first response."""
    units: tuple[tuple[int, ...], ...]
    """The rows of the responses, by unit, in order of the first row of each unit. The weights of a unit's responses
    depend on each other, so they go through the model in one micro-batch."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of all units."""
        return tuple(row for unit in self.units for row in unit)

    def response(self, row: int) -> Response:
        """The response that has this row of the batch."""
        return self.group.responses[row - self.first]

    @property
    def tokens(self) -> int:
        """Tokens of the prompt, once, and of the responses."""
        return len(self.group.prompt_ids) + sum(len(self.response(row).token_ids) for row in self.rows)


def rows_by_group(
    groups: Sequence[Group], rows: Sequence[int] | None = None, unit_ids: Sequence[int] | None = None
) -> list[GroupRows]:
    """The responses `rows` of a batch, group by group; groups without any are left out.

    Args:
        groups: all groups of the batch.
        rows: None: every response.
        unit_ids: (R,) the unit of every response of the batch; None: every response is its own.

    Raises:
        ValueError: units are missing, or a unit spans two groups.
    """
    count = sum(len(group.responses) for group in groups)
    if unit_ids is None:
        unit_ids = range(count)
    if len(unit_ids) != count:
        raise ValueError(f"unit_ids needs one unit per response: {count} of them, got {len(unit_ids)}")
    selected = set(range(count)) if rows is None else set(rows)
    owner: dict[int, Group] = {}
    result: list[GroupRows] = []
    first = 0
    for group in groups:
        units: dict[int, list[int]] = {}
        for row in range(first, first + len(group.responses)):
            if row in selected:
                units.setdefault(unit_ids[row], []).append(row)
        for unit in units:
            if unit in owner:
                raise ValueError(
                    f"unit {unit} spans two groups, of problems {owner[unit].problem.id!r} and {group.problem.id!r}: "
                    "only responses of one group go together; give each group units of its own"
                )
            owner[unit] = group
        if units:
            result.append(GroupRows(group, first, tuple(map(tuple, units.values()))))
        first += len(group.responses)
    return result


@dataclass(frozen=True, slots=True)
class Selection:
    """The responses of a batch that go through the model at once."""

    parts: Sequence[GroupRows]
    """Those of all ranks."""
    share: Sequence[GroupRows]
    """Those of this rank, which are those of the neighbours that share its rows too."""
    place: tuple[int, int] = (0, 1)
    """Which of how many shares that is."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        rows: Sequence[int] | None = None,
        unit_ids: Sequence[int] | None = None,
        ranks: Ranks = ALONE,
    ) -> Selection:
        """The responses `rows` of a batch, as `rows_by_group` has them, and this rank's share of them."""
        parts = rows_by_group(groups, rows, unit_ids)
        return cls(parts, shares_of(parts, ranks.shares)[ranks.share_index], (ranks.share_index, ranks.shares))

    def check(self, ranks: Ranks) -> None:
        """Refuse a selection that was made for other ranks: some responses would count several times.

        Raises:
            ValueError: with both places.
        """
        if self.place != (ranks.share_index, ranks.shares):
            index, count = self.place
            raise ValueError(
                f"the selection has share {index + 1} of {count}, and this rank learns from share "
                f"{ranks.share_index + 1} of {ranks.shares}: make it with `Selection.of(..., ranks=ranks)`"
            )


def shares_of(groups: Sequence[GroupRows], count: int) -> list[list[GroupRows]]:
    """So many shares: whole groups, as equal in tokens as longest-first makes them."""
    return [[groups[n] for n in places] for places in share([group.tokens for group in groups], count)]


def with_tokens(parts: Sequence[GroupRows], groups: Sequence[Group], ranks: Ranks) -> list[GroupRows]:
    """The parts with the ids of their prompts and of those responses that go through the model, and with the experts of
    these where they are known. All ranks call it with the same groups, each with the parts that it puts through the
    model.

    Args:
        groups: the whole batch.
    """
    if ranks.count == 1:
        return [*parts]
    responses = [response for group in groups for response in group.responses]
    arrays = [*(response.token_ids for response in responses), *(response.routes for response in responses)]
    firsts = accumulate((len(group.responses) for group in groups), initial=0)
    places = dict(zip(firsts, range(len(arrays), len(arrays) + len(groups)), strict=False))
    prompts = [places[part.first] for part in parts]
    arrays += [group.prompt_ids for group in groups]
    rows = [row for part in parts for row in part.rows]
    values = fetch([*prompts, *rows, *(len(responses) + row for row in rows)], arrays, ranks)
    fetched = {row: (values[row], values[len(responses) + row]) for row in rows}
    return [_filled(part, values[prompt], fetched) for part, prompt in zip(parts, prompts, strict=True)]


def _filled(
    part: GroupRows, prompt_ids: Sequence[int], fetched: Mapping[int, tuple[Sequence[int], Sequence[int]]]
) -> GroupRows:
    """The part with what was fetched of it, token ids and routes by row; one that was here as it is."""
    own: list[Sequence[int]] = [part.group.prompt_ids]
    for row in part.rows:
        own += part.response(row).token_ids, part.response(row).routes
    if not any(isinstance(array, RemoteArray) for array in own):
        return part
    responses = list(part.group.responses)
    for row in part.rows:
        token_ids, routes = fetched[row]
        responses[row - part.first] = replace(part.response(row), token_ids=token_ids, routes=routes)
    return replace(part, group=replace(part.group, prompt_ids=prompt_ids, responses=tuple(responses)))


def sharded_outputs(
    groups: Sequence[Group], ranks: Ranks, local: Callable[[Sequence[GroupRows]], Mapping[int, Sequence[float]]]
) -> list[Sequence[float]]:
    """(R)(T): every rank computes its share, and all have the whole.

    Args:
        local: the output for every token of some responses, by row, computed on this rank.
    """
    outputs = local(with_tokens(Selection.of(groups, ranks=ranks).share, groups, ranks))
    by_row = {row: values for part in ranks.gather(outputs if ranks.leads_row else {}) for row, values in part.items()}
    return [by_row[row] for row in range(sum(len(group.responses) for group in groups))]


def same_batch(groups: Sequence[GroupRows], ranks: Ranks) -> None:
    """Check that all ranks train on the same batch; otherwise they would hang, or train on a mixture.

    Raises:
        RunError: the batches differ."""
    seen = blake2b(digest_size=8)
    for group in groups:
        for row in group.rows:
            seen.update(row.to_bytes(8, "little"))
            seen.update(digest_of(group.response(row).token_ids))
    if len(set(ranks.gather(int.from_bytes(seen.digest())))) > 1:
        raise RunError(
            "ranks hold different batches: something that decides about the data depends on the rank, such as a "
            "plugin that uses an unseeded random choice or the time"
        )


class LogprobModel(Protocol):
    """A model that computes log-probabilities."""

    def logprobs(self, groups: Sequence[Group], temperature: float) -> Sequence[Sequence[float]]:
        """(R)(T) log-probability of every response token."""
        ...


@dataclass(frozen=True, slots=True)
class ShardedPolicy:
    """A policy of which every rank holds a copy, and puts its share of the responses through."""

    policy: LogprobModel
    ranks: Ranks

    def logprobs(self, groups: Sequence[Group], temperature: float) -> Sequence[Sequence[float]]:
        """(R)(T) log-probability of every response token, on every rank."""

        def local(share: Sequence[GroupRows]) -> dict[int, Sequence[float]]:
            values = self.policy.logprobs([part.group for part in share], temperature)
            return dict(zip((row for part in share for row in part.rows), values, strict=True))

        return sharded_outputs(groups, self.ranks, local)
