"""Token ids that a model has no embedding for: found before anything is opened.

A tokenizer can know more tokens than the model (added ones that it was never resized for, or it is another model's).
Most of these are harmless because no text holds them: what counts is what a prompt or a response really holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from reasoner.errors import DataError
from reasoner.models.size import ModelSize


class TokenNames(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def eos_token_id(self) -> int | None: ...

    def convert_ids_to_tokens(self, ids: int) -> str: ...


def check_token_ids(
    folder: Path, tokenizer: TokenNames, sequences: Iterable[tuple[str, Sequence[int]]], model: str = "model.path"
) -> None:
    """Refuse tokens that the model in `folder` has no embedding for.

    Args:
        folder: a model; nothing is checked where its configuration has no `vocab_size`.
        tokenizer: that of the run, whose end token is checked too.
        sequences: what holds token ids, in words for the message (`the prompt of problem p:1`), and these.
        model: configuration key that names the model.

    Raises:
        DataError: there is such a token.
    """
    known = ModelSize.of(folder).vocabulary
    if not known:
        return
    end = tokenizer.eos_token_id
    for where, ids in (("its end token", [] if end is None else [end]), *sequences):
        highest = max(ids, default=0)
        if highest >= known:
            token = tokenizer.convert_ids_to_tokens(highest)
            raise DataError(
                f"{model}: the tokenizer writes {where} with the token {token!r}, number {highest}, and the model in "
                f"{folder} has embeddings for {known} tokens only (vocab_size). Take the tokenizer that the model was "
                "trained with, or resize the model (model.resize_token_embeddings(len(tokenizer))) and save it"
            )
