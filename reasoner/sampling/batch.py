"""Requests that the transformers sampler continues together, one token of every row at a time.

Axes: R rows of the batch (continuations), V vocabulary.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoner.sampling.base import Completed, Completion, Finish, TokenRequest
from reasoner.sampling.decoding import Decoder


@dataclass
class BatchRow:
    """A continuation while it is sampled."""

    request: TokenRequest
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    versions: list[tuple[int, int]] = field(default_factory=list)
    """the position of the first token of each version of the weights, and the version"""
    finish: Finish | None = None
    routes: array[int] = field(default_factory=lambda: array("H"))
    """experts that were chosen for what was read"""

    def read(self, routes_PW: NDArray[np.uint16]) -> None:
        """The model has read all tokens; these are the experts of the last positions, of which some may be known."""
        tokens = len(self.request.token_ids) + len(self.token_ids)
        unknown = tokens - len(self.routes) // routes_PW.shape[1]
        self.routes.frombytes(routes_PW[len(routes_PW) - unknown :].tobytes())

    def add(self, token: int, logprob: float, version: int) -> None:
        """One token more, by weights of this version."""
        if not self.versions or self.versions[-1][1] != version:
            self.versions.append((len(self.token_ids), version))
        self.token_ids.append(token)
        self.logprobs.append(logprob)

    def completion(self, version: int) -> Completion:
        """What was generated; `version` is that of the weights, for a row without a token. One that is not finished
        was aborted."""
        (_, first), *changes = self.versions or [(0, version)]
        finish = self.finish or "abort"
        routes = self.routes if self.token_ids else ()
        return Completion(self.token_ids, self.logprobs, finish, first, tuple(changes), routes)


class TokenBatch:
    """Rows that grow together. Rows that are finished stay until all of their request are, unless the weights change.

    Args:
        decoder: how the model reads.
        requests: what is continued; with a decoder that is `even`, all have the same number of tokens.
    """

    def __init__(self, decoder: Decoder, requests: Sequence[TokenRequest]) -> None:
        self._decoder = decoder
        self._written = {request.id: [BatchRow(request) for _ in range(request.n)] for request in requests}
        self._rows = [row for rows in self._written.values() for row in rows]
        self._decoding, self._logits_RV = decoder.begin(
            [request.token_ids for request in requests], [request.n for request in requests]
        )
        self._note_routes()
        self._tokens_R: Tensor | None = None
        """tokens that the rows have and the model has not read"""

    def __bool__(self) -> bool:
        return bool(self._written)

    def step(self, choose: Callable[[Tensor, Sequence[BatchRow]], Tensor]) -> list[list[BatchRow]]:
        """One token more in every row; returns the rows of each request that is complete, which leaves the batch.

        Args:
            choose: gets (R, V) logits and the rows; gives a token to those that are not finished, and returns (R,) the
                tokens of all.
        """
        if self._tokens_R is not None:
            self._logits_RV = self._decoding.next(self._tokens_R)
            self._note_routes()
        self._tokens_R = choose(self._logits_RV, self._rows)
        return self.take([id_ for id_, rows in self._written.items() if all(row.finish for row in rows)])

    def take(self, ids: Collection[int]) -> list[list[BatchRow]]:
        """Remove requests; returns the rows of each, in the order of the batch."""
        taken = [id_ for id_ in self._written if id_ in ids]
        found = [self._written.pop(id_) for id_ in taken]
        kept = [at for at, row in enumerate(self._rows) if row.request.id not in taken]
        if kept and taken:
            keep_R = torch.tensor(kept, device=self._logits_RV.device)
            self._decoding.keep(keep_R)
            if self._tokens_R is None:
                self._logits_RV = self._logits_RV[keep_R]
            else:
                self._tokens_R = self._tokens_R[keep_R]
        self._rows = [self._rows[at] for at in kept]
        return found

    def read_again(self) -> None:
        """The weights have changed: compute what the model has read so far with the new ones."""
        self._rows = [row for row in self._rows if not row.finish]  # others have fewer tokens, and need no more
        if self._rows:
            written = [(*row.request.token_ids, *row.token_ids) for row in self._rows]
            self._decoding, self._logits_RV = self._decoder.begin(written, [1] * len(written))
            self._note_routes()
        self._tokens_R = None

    def _note_routes(self) -> None:
        """Keep the experts of what was just read; a row that is finished needs no more."""
        if self._decoding.routes_RPW is not None:
            for row, routes_PW in zip(self._rows, self._decoding.routes_RPW, strict=True):
                if row.finish is None:
                    row.read(routes_PW)


def completed(rows: Sequence[BatchRow], version: int) -> Completed:
    """The rows of one request; `version` is that of the weights."""
    return Completed(rows[0].request.id, tuple(row.completion(version) for row in rows))
