"""The reward source `repetition`: the share of a response that repeats itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reasoner import Problem, Response, Score, reward

PIECE_NGRAMS = 2**16
"""n-grams that are compared with each other: bounds the memory"""
MAX_WORD_CHARS = 20
"""characters; a longer run without a space is several words: a loop needs no spaces"""

_WORD = re.compile(rf"\w{{1,{MAX_WORD_CHARS}}}|[^\w\s]")


class RepetitionOptions(BaseModel):
    """Options of `repetition`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: Annotated[int, Field(ge=1, le=200)] = 20
    """units per n-gram"""
    unit: Literal["words", "characters"] = "words"
    """what an n-gram consists of: words and marks, or characters (for scripts without spaces)"""


@reward("repetition", timeout_s=10.0, needs_answer=False, aspect="text")
def repetition(problem: Problem, response: Response, *, options: RepetitionOptions) -> Score:
    """The share of n-grams that occurred before: 1 - different n-grams / n-grams, in [0, 1); 0 with fewer than n units.

    Meant for a negative weight, against loops and filler that earn a reward for length. With 20 words, what a solution
    restates on purpose costs nearly nothing, and a text that loops comes close to 1. Case and numbers count: a loop
    that counts upwards is not repetition here.

    Linear in the text. Beyond `PIECE_NGRAMS` n-grams the text is compared piece by piece, so that megabytes need no
    more memory: what only a later piece repeats is not seen, a loop is.

    Parts: `ngrams`, their number.
    """
    text = response.text
    units = text if options.unit == "characters" else (match.group() for match in _WORD.finditer(text))
    total = repeated = 0
    for piece in _pieces(units, options.n):
        distinct = {tuple(piece[start : start + options.n]) for start in range(len(piece) - options.n + 1)}
        total += len(piece) - options.n + 1
        repeated += len(piece) - options.n + 1 - len(distinct)
    return Score(repeated / total if total else 0.0, {"ngrams": total})


def _pieces(units: Iterable[str], n: int) -> Iterator[list[str]]:
    """Pieces that overlap by n - 1 units: every n-gram lies in exactly one of them."""
    remaining = iter(units)
    piece = list(islice(remaining, PIECE_NGRAMS + n - 1))
    while len(piece) >= n:
        yield piece
        piece = piece[len(piece) - n + 1 :] + list(islice(remaining, PIECE_NGRAMS))
