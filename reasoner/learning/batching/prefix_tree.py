"""What responses to one prompt begin with, each common beginning once. Pure, no torch.

The responses of a group often begin alike: the same call of a tool with the same result, the same first move in a game.
As a tree of *pieces* those tokens go through the model once. A piece continues its parent, or the prompt; a response
consists of the pieces on its way.

Four responses, of which the last token only ever is a target; two begin with 1, 2, 3, and one of these ends there:

>>> tree = PrefixTree.of([(1, 2, 3, 4, 5), (1, 2, 3, 9), (7, 8), (6,)], least=2)
>>> tree.pieces, tree.parents
(((1, 2, 3), (7,), (4,)), (-1, -1, 0))
>>> tree.paths
((0, 2), (0,), (1,), ())
>>> PrefixTree.apart([(1, 2, 3, 4, 5), (1, 2, 3, 9), (7, 8), (6,)]).pieces
((1, 2, 3, 4), (1, 2, 3), (7,), ())
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from reasoner.records import TokenIds

LEAST = 8
"""tokens of a piece that several responses share: a shorter one is no work worth another call of attention"""


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """The tokens of some responses that go through the model."""

    pieces: tuple[TokenIds, ...]
    """Token ids; parents come before their children, and the children of a piece one after the other."""
    parents: tuple[int, ...]
    """The piece that each piece continues; -1: the prompt."""
    paths: tuple[tuple[int, ...], ...]
    """The pieces of each response."""

    @classmethod
    def apart(cls, responses: Sequence[TokenIds]) -> Self:
        """Every response as a piece of its own."""
        paths = tuple((place,) for place in range(len(responses)))
        return cls(tuple(response[:-1] for response in responses), (-1,) * len(responses), paths)

    @classmethod
    def of(cls, responses: Sequence[TokenIds], least: int = LEAST) -> Self:
        """Common beginnings of at least so many tokens once."""
        inputs = [response[:-1] for response in responses]
        pieces: list[TokenIds] = []
        parents: list[int] = []
        paths: list[list[int]] = [[] for _ in inputs]
        pending = deque([(list(range(len(inputs))), 0, -1)])
        while pending:
            rows, start, parent = pending.popleft()
            for members, end in _siblings(inputs, rows, start, least):
                if end == start:
                    continue
                for row in members:
                    paths[row].append(len(pieces))
                longer = [row for row in members if len(inputs[row]) > end]
                if longer:
                    pending.append((longer, end, len(pieces)))
                pieces.append(inputs[members[0]][start:end])
                parents.append(parent)
        return cls(tuple(pieces), tuple(parents), tuple(map(tuple, paths)))

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, without the prompt."""
        return sum(map(len, self.pieces))


def _siblings(
    inputs: Sequence[TokenIds], rows: Sequence[int], start: int, least: int
) -> Iterator[tuple[Sequence[int], int]]:
    """The pieces that begin at this position, after what these rows have in common: the rows of each, and where it
    ends."""
    if len(rows) == 1:
        yield rows, len(inputs[rows[0]])
        return
    end = _common(inputs, rows, start)
    if end - start >= least:
        yield rows, end
        return
    next_: dict[int, list[int]] = {}
    for row in rows:
        if len(inputs[row]) == end:
            yield [row], end
        else:
            next_.setdefault(inputs[row][end], []).append(row)
    for members in next_.values():
        yield from _siblings(inputs, members, start, least)


def _common(inputs: Sequence[TokenIds], rows: Sequence[int], start: int) -> int:
    """Where the rows, which are the same up to `start`, begin to differ, or the shortest ends."""
    shortest = min(len(inputs[row]) for row in rows)
    first, *others = (np.asarray(inputs[row][start:shortest]) for row in rows)
    differs = np.zeros(len(first), dtype=bool)
    for other in others:
        differs |= first != other
    return start + int(differs.argmax()) if differs.any() else shortest
