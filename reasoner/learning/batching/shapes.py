"""Where the packed sequences of a micro-batch are in its flat input, as attention needs it.

Of a sequence, a prompt and the pieces of its responses lie one after the other. A prompt token sees the prompt before
it; a token of a piece sees the whole prompt, the pieces that its own one continues, and its own one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SequenceShape:
    """What attention needs of a packed sequence: where it starts in the flat input, and how long its pieces are."""

    start: int
    prompt: int
    """The number of tokens of the prompt."""
    pieces: tuple[int, ...]
    """The number of tokens of each piece; may be 0. Without common beginnings, a piece is a response."""
    parents: tuple[int, ...] = ()
    """The piece that each piece continues, -1 for the prompt; parents come before their children, and the children of a
    piece one after the other. Empty: all continue the prompt."""

    @property
    def tokens(self) -> int:
        """Of the whole sequence."""
        return self.prompt + sum(self.pieces)

    @property
    def families(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The pieces by the piece that they continue, in the order in which they lie.

        >>> SequenceShape(0, 3, (2, 4, 1, 1), (-1, -1, 0, 0)).families
        ((-1, (0, 1)), (0, (2, 3)))
        """
        children: dict[int, list[int]] = {}
        for piece, parent in enumerate(self.parents or (-1,) * len(self.pieces)):
            children.setdefault(parent, []).append(piece)
        return tuple((parent, tuple(places)) for parent, places in children.items())


@dataclass(frozen=True, slots=True)
class Segments:
    """All packed sequences of a micro-batch as one call of attention over segments of varying length.

    Causal inside a segment and aligned at its end: the last query sees all of its keys, the one before all but the
    last. So a prompt is a segment with as many keys as queries, and each piece one whose keys are the prompt's, those
    of the pieces that it continues, and its own. Queries are in the order of the flat input; keys are gathered from it,
    a prompt's as often as it has pieces after it.
    """

    queries: Tensor
    """(segments + 1,) int32, cumulative: where each segment's queries begin, and their number."""
    keys: Tensor
    """The same of the keys."""
    most_queries: int
    """Of a segment."""
    most_keys: int
    """Of a segment."""
    pieces: tuple[int, ...]
    """The numbers of tokens of the pieces that the flat input is cut into."""
    gathered: tuple[int, ...]
    """The pieces that the keys consist of, by their place; may name one several times."""

    @classmethod
    def of(cls, shapes: Sequence[SequenceShape], device: torch.device) -> Self:
        """The segments of these sequences, which cover the flat input.

        Two sequences: a prompt of three tokens with two responses of two tokens and one, and a whole of four.

        >>> shapes = [SequenceShape(0, 3, (2, 1)), SequenceShape(6, 1, (3,))]
        >>> segments = Segments.of(shapes, torch.device("cpu"))
        >>> segments.queries, segments.keys
        (tensor([ 0,  3,  5,  6, 10], dtype=torch.int32), tensor([ 0,  3,  8, 12, 16], dtype=torch.int32))
        >>> segments.pieces, segments.gathered
        ((3, 2, 1, 4), (0, 0, 1, 0, 2, 3))
        """
        queries: list[int] = []
        keys: list[int] = []
        pieces: list[int] = []
        gathered: list[int] = []
        for shape in shapes:
            prompt = len(pieces)
            if len(shape.pieces) == 1:
                pieces.append(shape.tokens)
                queries.append(pieces[-1])
                keys.append(pieces[-1])
                gathered.append(prompt)
                continue
            pieces.append(shape.prompt)
            queries.append(shape.prompt)
            keys.append(shape.prompt)
            gathered.append(prompt)
            seen: dict[int, tuple[int, ...]] = {-1: (prompt,)}
            for parent, places in shape.families:
                for place in places:
                    if not (length := shape.pieces[place]):
                        continue
                    seen[place] = (*seen[parent], len(pieces))
                    gathered += seen[place]
                    pieces.append(length)
                    queries.append(length)
                    keys.append(sum(pieces[index] for index in seen[place]))
        return cls(
            torch.tensor([0, *accumulate(queries)], dtype=torch.int32, device=device),
            torch.tensor([0, *accumulate(keys)], dtype=torch.int32, device=device),
            max(queries),
            max(keys),
            tuple(pieces),
            tuple(gathered),
        )

    def gather(self, part_LHD: Tensor) -> Tensor:
        """Keys or values of the flat input as the segments need them.

        Cut once and put together, because the gradient of an index would be summed by atomics, in another order every
        time, and that of a slice per piece would fill the whole input with zeros for each.
        """
        if self.gathered == tuple(range(len(self.pieces))):
            return part_LHD
        parts = torch.split(part_LHD, list(self.pieces))
        return torch.cat([parts[piece] for piece in self.gathered])
