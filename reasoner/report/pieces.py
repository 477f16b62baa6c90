"""Token ids as the pieces of text that they stand for, so that joined pieces are the generated text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasoner.errors import DataError
from reasoner.io.bounded_files import LARGE_BYTES, parse_json, read_text
from reasoner.models.resolve import local_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"


class Pieces:
    """A tokenizer's pieces. A character that several tokens share is the first one's; the others' pieces are empty."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        # Some decoders drop the space before the first token: every token is decoded behind another one.
        self._anchor = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._prefix = len(self._decode(()))
        self.special = frozenset(id_ for id_, t in tokenizer.get_added_tokens_decoder().items() if t.special)
        """ids of special tokens"""

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One piece per token."""
        pieces: list[str] = []
        for broken, run in groupby(ids, lambda id_: BROKEN in self._piece(id_)):
            some = list(run)
            joined = self._decode(some)[self._prefix :] if broken else ""
            pieces += [joined, *[""] * (len(some) - 1)] if broken else [self._piece(id_) for id_ in some]
        return pieces

    def _piece(self, id_: int) -> str:
        if id_ not in self._known:
            self._known[id_] = self._decode((id_,))[self._prefix :]
        return self._known[id_]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([*self._anchor, *ids], skip_special_tokens=False)


def load_pieces(run: Path, config: Mapping[str, Any]) -> Pieces | None:
    """The pieces of a run's model: from the run folder, or from where the model came from if that is on this machine;
    None: there is no fast tokenizer, or `tokenizers` is not installed.

    Raises:
        DataError: there is one that cannot be read.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    source = local_file(str(config.get("model", {}).get("path", "")), "tokenizer.json")
    found = [*sorted(run.rglob("tokenizer.json")), *([source] if source else [])]
    if not found:
        return None
    text = read_text(found[0], LARGE_BYTES, links=found[0] == source)  # a hub's cache is made of links
    try:
        parse_json(text)  # the library follows a file that nests without end until its stack is full
        return Pieces(Tokenizer.from_str(text))
    except Exception as error:  # it raises nothing narrower
        raise DataError(f"{found[0]} is not a tokenizer: {str(error)[:200]}") from error
