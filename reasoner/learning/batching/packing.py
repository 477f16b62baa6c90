"""From groups to micro-batches: which tokens go through the model together. Pure, no torch.

A *row* is a prompt and one or more responses that continue it; inside a row the prompt is there once. Rows are laid
one after the other, without padding, until a micro-batch holds `token_budget` tokens. The last token of a response
only ever is a target, so it is not among the tokens that go through the model.

A *unit* is one or more responses of a group whose weights depend on each other (a preference pair): they go through
the model in one micro-batch whatever the budget, and in one row where the prompt is shared. `together` names the unit
of every response, in group order; None: every response is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reasoner.records import Group

Layout = Literal["auto", "packed", "padded"]
Sharing = Literal["auto", "always", "never"]
WORTH_SHARING = 0.2
"""share of a group's tokens that one common prompt must save under `auto`"""


@dataclass(frozen=True, slots=True)
class PackedRow:
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

    rows: tuple[PackedRow, ...]

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


def pack(
    groups: Sequence[Group], token_budget: int, sharing: Sharing, together: Sequence[int] | None = None
) -> tuple[MicroBatch, ...]:
    """Micro-batches of at most `token_budget` tokens (first fit, longest first); a longer row or unit gets its own."""
    pieces = [piece for each in _numbered(groups, together) for piece in _pieces(each, token_budget, sharing)]
    bins: list[list[PackedRow]] = []
    free: list[int] = []
    for piece in sorted(pieces, key=_tokens, reverse=True):
        tokens = _tokens(piece)
        place = next((place for place, room in enumerate(free) if tokens <= room), None)
        if place is None:
            bins.append([*piece])
            free.append(token_budget - tokens)
        else:
            bins[place] += piece
            free[place] -= tokens
    return tuple(MicroBatch(tuple(rows)) for rows in bins)


def pack_padded(
    groups: Sequence[Group], token_budget: int, together: Sequence[int] | None = None
) -> tuple[MicroBatch, ...]:
    """Micro-batches of single-response rows that will be padded to their longest: `rows * longest <= token_budget`; a
    unit that needs more gets its own."""
    pieces = [piece for each in _numbered(groups, together) for piece in _single_rows(each)]
    batches: list[list[PackedRow]] = []
    longest = 0
    for piece in sorted(pieces, key=_longest, reverse=True):
        if batches and (len(batches[-1]) + len(piece)) * longest <= token_budget:
            batches[-1] += piece
        else:
            batches.append([*piece])
            longest = _longest(piece)
    return tuple(MicroBatch(tuple(rows)) for rows in batches)


def longest_context(groups: Sequence[Group]) -> int:
    """Tokens of the longest prompt with its response; 0 without any."""
    return max((tokens for tokens, _ in _sequences(groups)), default=0)


def extremes_of(groups: Sequence[Group]) -> list[Group]:
    """The groups of the longest and of the shortest sequence (or the one of both), with their own longest and shortest
    response."""
    sequences = sorted(_sequences(groups))
    return [_two_responses(groups[place]) for place in sorted({sequences[0][1], sequences[-1][1]})]


def _sequences(groups: Sequence[Group]) -> Iterator[tuple[int, int]]:
    """Tokens of each prompt with its response, and the place of its group."""
    for place, group in enumerate(groups):
        for response in group.responses:
            yield len(group.prompt_ids) + len(response.token_ids), place


def _two_responses(group: Group) -> Group:
    ordered = sorted(group.responses, key=lambda response: len(response.token_ids))
    return replace(group, responses=tuple(ordered[:1] + ordered[1:][-1:]))


def worth_sharing(group: Group) -> bool:
    """Whether writing the prompt once saves more than a fifth of the group's tokens."""
    prompt, count = len(group.prompt_ids), len(group.responses)
    apart = count * prompt + sum(len(response.token_ids) - 1 for response in group.responses)
    return (count - 1) * prompt > WORTH_SHARING * apart


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A group among all groups."""

    group: Group
    first: int
    """index of its first response"""
    units: tuple[tuple[int, ...], ...]
    """places in the group of the responses of each unit, in order of the first of them"""

    def row(self, places: Sequence[int]) -> PackedRow:
        """These responses after one prompt."""
        responses = self.group.responses
        return PackedRow(
            self.group.prompt_ids,
            tuple(responses[place].token_ids for place in places),
            tuple(self.first + place for place in places),
        )


_Piece = tuple[PackedRow, ...]
"""rows that are never split over micro-batches"""


def _numbered(groups: Sequence[Group], together: Sequence[int] | None) -> Iterator[_Numbered]:
    count = sum(len(group.responses) for group in groups)
    if together is None:
        together = range(count)
    if len(together) != count:
        raise ValueError(f"together needs one unit per response: {count} of them, got {len(together)}")
    first = 0
    owner: dict[int, Group] = {}
    for group in groups:
        if not group.prompt_ids:
            raise ValueError(
                f"problem {group.problem.id!r} has an empty prompt: nothing predicts the first response token"
            )
        units: dict[int, list[int]] = {}
        for place in range(len(group.responses)):
            units.setdefault(together[first + place], []).append(place)
        for unit in units:
            if unit in owner:
                raise ValueError(
                    f"unit {unit} spans two groups, of problems {owner[unit].problem.id!r} and {group.problem.id!r}: "
                    "only responses of one group go together; give each group units of its own"
                )
            owner[unit] = group
        yield _Numbered(group, first, tuple(map(tuple, units.values())))
        first += len(group.responses)


def _pieces(each: _Numbered, token_budget: int, sharing: Sharing) -> Iterator[_Piece]:
    share = sharing == "always" or (sharing == "auto" and worth_sharing(each.group))
    return _shared_rows(each, token_budget) if share else _single_rows(each)


def _single_rows(each: _Numbered) -> Iterator[_Piece]:
    for unit in each.units:
        yield tuple(each.row([place]) for place in unit)


def _shared_rows(each: _Numbered, token_budget: int) -> Iterator[_Piece]:
    """As many units per row as fit into the budget, in their order; at least one."""
    group = each.group
    pending: list[int] = []
    tokens = len(group.prompt_ids)
    for unit in each.units:
        more = sum(len(group.responses[place].token_ids) - 1 for place in unit)
        if pending and tokens + more > token_budget:
            yield (each.row(pending),)
            pending, tokens = [], len(group.prompt_ids)
        pending += unit
        tokens += more
    if pending:
        yield (each.row(pending),)


def _tokens(piece: _Piece) -> int:
    return sum(row.tokens for row in piece)


def _longest(piece: _Piece) -> int:
    return max(row.tokens for row in piece)
