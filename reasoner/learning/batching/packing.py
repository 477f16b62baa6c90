"""From groups to micro-batches: which tokens go through the model together. Pure, no torch.

A *packed sequence* is a prompt and one or more responses that continue it; inside it the prompt is there once, and so
is what its responses begin with, where that is worth it (`prefix_tree.py`). Sequences are laid one after the other,
without padding, until a micro-batch holds `token_budget` tokens. The last token of a response only ever is a target, so
it is not among the tokens that go through the model.

A prompt of 4 tokens with responses of 3, 5 and 2, of which 2, 4 and 1 go through the model:

>>> from reasoner.distributed.sharding import rows_by_group
>>> from reasoner.records import Group, Problem, Response
>>> def group_of(prompt, lengths):
...     made = [Response("", (1,) * length, (True,) * length, (0.0,) * length, "stop", 0) for length in lengths]
...     return Group(Problem("p", (), ""), (1,) * prompt, tuple(made))
>>> groups = rows_by_group([group_of(4, (3, 5, 2))])
>>> [(batch.rows, batch.tokens) for batch in pack(groups, 20, "always")]  # 4 + 2 + 4 + 1
[((0, 1, 2), 11)]
>>> [(batch.rows, batch.tokens) for batch in pack(groups, 14, "never")]  # 8 + 6, 5
[((1, 0), 14), ((2,), 5)]
>>> [(batch.rows, batch.tokens) for batch in pack_padded(groups, 16)]  # two sequences are padded to 8 tokens each
[((1, 0), 14), ((2,), 5)]
>>> longest_context(groups), [group.rows for group in extremes_of(groups)]  # 4 + 5; its group's extremes
(9, [(2, 1)])
>>> [worth_sharing(group) for group in groups]  # saves 8 of 19 tokens
[True]
>>> [worth_sharing(group) for group in rows_by_group([group_of(4, (31,))])]
[False]

A *unit* is one or more responses of a group whose weights depend on each other (a preference pair): they go through
the model in one micro-batch whatever the budget, and in one packed sequence where the prompt is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reasoner.distributed.sharding import GroupRows
from reasoner.learning.batching.prefix_tree import PrefixTree
from reasoner.records import Response

Layout = Literal["auto", "packed", "padded"]
Sharing = Literal["auto", "always", "never"]
WORTH_SHARING = 0.2
"""The least share of a group's tokens that one common prompt must save under `auto`, and of a packed sequence's that
common beginnings must save."""


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """A prompt and the responses after it; never split over micro-batches."""

    prompt_ids: Sequence[int]
    responses: tuple[Sequence[int], ...]
    """token ids"""
    rows: tuple[int, ...]
    """The row of each response in the batch."""
    routes: tuple[Sequence[int], ...] = ()
    """The experts that the sampler chose for each response (`Response.routes`)."""
    tree: PrefixTree | None = None
    """What goes through the model of the responses, where common beginnings are there once; None: every response by
    itself."""

    @property
    def pieces(self) -> PrefixTree:
        """What goes through the model of the responses."""
        return self.tree or PrefixTree.apart(self.responses)

    @property
    def tokens(self) -> int:
        """Tokens that go through the model.

        >>> PackedSequence(prompt_ids=(1, 2, 3), responses=((4, 5), (6, 7, 8)), rows=(0, 1)).tokens  # 3 + 1 + 2
        6
        """
        return len(self.prompt_ids) + self.pieces.tokens

    @property
    def reserved_tokens(self) -> int:
        """What it takes of a budget: as many tokens as without common beginnings, each of which is a target."""
        return len(self.prompt_ids) + sum(len(response) - 1 for response in self.responses)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Packed sequences that go through the model together."""

    sequences: tuple[PackedSequence, ...]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, without padding."""
        return sum(sequence.tokens for sequence in self.sequences)

    @property
    def rows(self) -> tuple[int, ...]:
        """Which responses these are: their rows of the batch, in the order of the sequences."""
        return tuple(row for sequence in self.sequences for row in sequence.rows)

    @property
    def responses(self) -> tuple[Sequence[int], ...]:
        """Token ids of the responses, in the order of `rows`."""
        return tuple(response for sequence in self.sequences for response in sequence.responses)


def pack(groups: Sequence[GroupRows], token_budget: int, sharing: Sharing) -> tuple[MicroBatch, ...]:
    """Micro-batches of at most `token_budget` tokens (first fit, longest first); a longer sequence or unit gets its
    own.

    Args:
        groups: the responses, by their rows of the batch.
        token_budget: tokens per micro-batch.
        sharing: whether a group's prompt goes through the model once; `auto`: where that is worth it.

    Raises:
        ValueError: a prompt is empty.
    """
    pieces = [piece for group in groups for piece in _pieces(group, token_budget, sharing)]
    bins: list[list[PackedSequence]] = []
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
    return tuple(MicroBatch(tuple(sequences)) for sequences in bins)


def pack_padded(groups: Sequence[GroupRows], token_budget: int) -> tuple[MicroBatch, ...]:
    """Micro-batches of single responses that will be padded to their longest: `sequences * longest <= token_budget`; a
    unit that needs more gets its own.

    Raises:
        ValueError: a prompt is empty.
    """
    pieces = [piece for group in groups for piece in _single_sequences(group)]
    batches: list[list[PackedSequence]] = []
    longest = 0
    for piece in sorted(pieces, key=_longest, reverse=True):
        if batches and (len(batches[-1]) + len(piece)) * longest <= token_budget:
            batches[-1] += piece
        else:
            batches.append([*piece])
            longest = _longest(piece)
    return tuple(MicroBatch(tuple(sequences)) for sequences in batches)


def longest_context(groups: Sequence[GroupRows]) -> int:
    """Tokens of the longest prompt with its response; 0 without any."""
    return max((tokens for tokens, _ in _lengths(groups)), default=0)


def extremes_of(groups: Sequence[GroupRows]) -> list[GroupRows]:
    """The groups of the longest and of the shortest sequence (or the one of both), with their own longest and shortest
    response."""
    lengths = sorted(_lengths(groups))
    return [_two_responses(groups[place]) for place in sorted({lengths[0][1], lengths[-1][1]})]


def _lengths(groups: Sequence[GroupRows]) -> Iterator[tuple[int, int]]:
    """Tokens of each prompt with its response, and the place of its group."""
    for place, group in enumerate(groups):
        for row in group.rows:
            yield len(group.group.prompt_ids) + len(group.response(row).token_ids), place


def _two_responses(group: GroupRows) -> GroupRows:
    ordered = sorted(sorted(group.rows), key=lambda row: len(group.response(row).token_ids))
    return replace(group, units=tuple((row,) for row in ordered[:1] + ordered[1:][-1:]))


def worth_sharing(group: GroupRows) -> bool:
    """Whether writing the prompt once saves more than a fifth of the group's tokens, or what its responses begin with
    does."""
    prompt, rows = len(group.group.prompt_ids), group.rows
    responses = [group.response(row) for row in rows]
    apart = len(rows) * prompt + sum(len(response.token_ids) - 1 for response in responses)
    return (len(rows) - 1) * prompt > WORTH_SHARING * apart or _tree(prompt, responses) is not None


def _tree(prompt: int, responses: Sequence[Response]) -> PrefixTree | None:
    """The common beginnings of responses to one prompt; None: they save less than a fifth of the tokens, or the sampler
    chose experts for each response, which may differ where the tokens are the same."""
    if any(response.routes for response in responses):
        return None
    token_ids = [response.token_ids for response in responses]
    tree, apart = PrefixTree.of(token_ids), sum(len(ids) - 1 for ids in token_ids)
    return tree if apart - tree.tokens > WORTH_SHARING * (prompt + apart) else None


_Piece = tuple[PackedSequence, ...]
"""Sequences that are never split over micro-batches."""


def _pieces(group: GroupRows, token_budget: int, sharing: Sharing) -> Iterator[_Piece]:
    share = sharing == "always" or (sharing == "auto" and worth_sharing(group))
    return _shared_sequences(group, token_budget) if share else _single_sequences(group)


def _single_sequences(group: GroupRows) -> Iterator[_Piece]:
    for unit in group.units:
        yield tuple(_sequence(group, [row], share=False) for row in unit)


def _shared_sequences(group: GroupRows, token_budget: int) -> Iterator[_Piece]:
    """As many units per sequence as fit into the budget, in their order; at least one."""
    prompt = len(group.group.prompt_ids)
    pending: list[int] = []
    tokens = prompt
    for unit in group.units:
        added = sum(len(group.response(row).token_ids) - 1 for row in unit)
        if pending and tokens + added > token_budget:
            yield (_sequence(group, pending, share=True),)
            pending, tokens = [], prompt
        pending += unit
        tokens += added
    if pending:
        yield (_sequence(group, pending, share=True),)


def _sequence(group: GroupRows, rows: Sequence[int], *, share: bool) -> PackedSequence:
    """These responses after one prompt; with `share` what they begin with is there once, where that is worth it."""
    prompt_ids = group.group.prompt_ids
    if not prompt_ids:
        raise ValueError(
            f"problem {group.group.problem.id!r} has an empty prompt: nothing predicts the first response token"
        )
    responses = [group.response(row) for row in rows]
    token_ids, routes = zip(*((response.token_ids, response.routes) for response in responses), strict=True)
    tree = _tree(len(prompt_ids), responses) if share else None
    return PackedSequence(prompt_ids, token_ids, tuple(rows), routes, tree)


def _tokens(piece: _Piece) -> int:
    return sum(sequence.reserved_tokens for sequence in piece)


def _longest(piece: _Piece) -> int:
    return max(sequence.tokens for sequence in piece)
