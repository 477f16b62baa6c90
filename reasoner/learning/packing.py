"""From groups to micro-batches: which tokens go through the model together. Pure, no torch.

A *row* is a prompt and one or more responses that continue it; inside a row the prompt is there once. Rows are laid
one after the other, without padding, until a micro-batch holds `token_budget` tokens. The last token of a response
only ever is a target, so it is not among the tokens that go through the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from reasoner.records import Group

Sharing = Literal["auto", "always", "never"]
WORTH_SHARING = 0.2
"""share of a group's tokens that one common prompt must save under `auto`"""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and the responses after it; never split over micro-batches."""

    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    """token ids"""
    indices: tuple[int, ...]
    """place of each response among all responses of the groups, in group order"""

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt_ids) + sum(len(response) - 1 for response in self.responses)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together."""

    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, without padding."""
        return sum(row.tokens for row in self.rows)

    @property
    def indices(self) -> tuple[int, ...]:
        """Which responses these are, in the order of the rows."""
        return tuple(index for row in self.rows for index in row.indices)

    @property
    def responses(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of the responses, in the order of `indices`."""
        return tuple(response for row in self.rows for response in row.responses)


def pack(groups: Sequence[Group], token_budget: int, sharing: Sharing) -> tuple[MicroBatch, ...]:
    """Micro-batches of at most `token_budget` tokens (first fit, longest row first); a longer row gets its own."""
    rows = [row for first, group in _numbered(groups) for row in _rows(group, first, token_budget, sharing)]
    bins: list[list[Row]] = []
    free: list[int] = []
    for row in sorted(rows, key=lambda row: row.tokens, reverse=True):
        place = next((place for place, room in enumerate(free) if row.tokens <= room), None)
        if place is None:
            bins.append([row])
            free.append(token_budget - row.tokens)
        else:
            bins[place].append(row)
            free[place] -= row.tokens
    return tuple(MicroBatch(tuple(rows)) for rows in bins)


def pack_padded(groups: Sequence[Group], token_budget: int) -> tuple[MicroBatch, ...]:
    """Micro-batches of single-response rows that will be padded to their longest: `rows * longest <= token_budget`."""
    rows = [row for first, group in _numbered(groups) for row in _single_rows(group, first)]
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.tokens, reverse=True):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].tokens <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return tuple(MicroBatch(tuple(rows)) for rows in batches)


def worth_sharing(group: Group) -> bool:
    """Whether writing the prompt once saves more than a fifth of the group's tokens."""
    prompt, count = len(group.prompt_ids), len(group.responses)
    apart = count * prompt + sum(len(response.token_ids) - 1 for response in group.responses)
    return (count - 1) * prompt > WORTH_SHARING * apart


def _numbered(groups: Sequence[Group]) -> Iterator[tuple[int, Group]]:
    """Each group with the index of its first response."""
    first = 0
    for group in groups:
        if not group.prompt_ids:
            raise ValueError(
                f"problem {group.problem.id!r} has an empty prompt: nothing predicts the first response token"
            )
        yield first, group
        first += len(group.responses)


def _rows(group: Group, first: int, token_budget: int, sharing: Sharing) -> Iterable[Row]:
    share = sharing == "always" or (sharing == "auto" and worth_sharing(group))
    return _shared_rows(group, first, token_budget) if share else _single_rows(group, first)


def _single_rows(group: Group, first: int) -> Iterator[Row]:
    for index, response in enumerate(group.responses, first):
        yield Row(group.prompt_ids, (response.token_ids,), (index,))


def _shared_rows(group: Group, first: int, token_budget: int) -> Iterator[Row]:
    """As many responses per row as fit into the budget, in their order; at least one."""
    pending: list[int] = []
    tokens = len(group.prompt_ids)
    for place, response in enumerate(group.responses):
        more = len(response.token_ids) - 1
        if pending and tokens + more > token_budget:
            yield _row(group, first, pending)
            pending, tokens = [], len(group.prompt_ids)
        pending.append(place)
        tokens += more
    if pending:
        yield _row(group, first, pending)


def _row(group: Group, first: int, places: Sequence[int]) -> Row:
    return Row(
        group.prompt_ids,
        tuple(group.responses[place].token_ids for place in places),
        tuple(first + place for place in places),
    )
