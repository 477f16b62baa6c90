"""A token service that writes what a test says: no model, no noise, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from reasoner.errors import SamplerError
from reasoner.records import Group, Receipt
from reasoner.sampling.base import Completed, Completion, TokenRequest

Script = Callable[[TokenRequest, int], Iterable[int]]
"""What continuation k of a request writes; it stops where the script does, with an end token added if it has none."""


@dataclass
class _Row:
    script: Iterator[int]
    completion: Completion
    finished: bool = False


@dataclass
class _Running:
    request: TokenRequest
    rows: list[_Row] = field(default_factory=list)


class FakeTokens:
    """Every `step` writes one token of every continuation that runs; `receive` steps until a request is complete.

    The log-probability of a token is `-(token + version / 1000)`, so that every number can be told from the others.

    Args:
        script: what is written.
        tokenizer: to read it with.
        end_tokens: the first one is added where a script stops.
    """

    name, description = "fake", "a fake"
    independent_sequences = 0

    def __init__(
        self, script: Script, tokenizer: Any, end_tokens: tuple[int, ...] = (2,), max_model_len: int = 4096
    ) -> None:
        self._script = script
        self.tokenizer, self.end_tokens, self.max_model_len = tokenizer, end_tokens, max_model_len
        self.version = 0
        self.submitted: list[TokenRequest] = []
        """Every request so far."""
        self.told: list[str] = []
        """Every other call so far."""
        self._running: dict[int, _Running] = {}
        self._complete: deque[Completed] = deque()
        self._paused = False

    @property
    def running(self) -> set[int]:
        """The ids of the requests that run."""
        return set(self._running)

    def begin(self, seed: int) -> None:
        self._check_free("begin")
        self.told.append(f"begin {seed}")

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        for request in requests:
            if request.id in self._running or any(done.id == request.id for done in self._complete):
                raise SamplerError(f"request {request.id} is running already")
            self.submitted.append(request)
            rows = [_Row(iter(self._script(request, k)), Completion((), (), "abort", -1)) for k in range(request.n)]
            self._running[request.id] = _Running(request, rows)

    def receive(self, timeout_s: float | None = None) -> Completed | None:
        """With `timeout_s`, one step at most."""
        while not self._complete and self._running:
            if self._paused and timeout_s is None:
                raise SamplerError("waits for ever: it is paused")
            self.step()
            if timeout_s is not None:
                break
        return self._complete.popleft() if self._complete else None

    def step(self) -> None:
        """One token more of everything that runs."""
        if self._paused:
            return
        for running in [*self._running.values()]:
            for row in running.rows:
                self._advance(running.request, row)
            if all(row.finished for row in running.rows):
                self._finish(running.request.id)

    def abort(self, ids: Collection[int]) -> None:
        self.told.append(f"abort {sorted(ids)}")
        for id_ in sorted(set(ids) & self._running.keys()):
            self._finish(id_)

    def pause(self) -> None:
        self._paused = True
        self.told.append("pause")

    def resume(self) -> None:
        self._paused = False
        self.told.append("resume")

    def load(self, folder: Path, version: int) -> Receipt:
        if not self._paused:
            self._check_free("load")
        self.version = version
        self.told.append(f"load {version}")
        return Receipt(version, "sum", 3, 0.0)

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        self._check_free("score")
        return {"": [[-1.0] * len(response.token_ids) for group in groups for response in group.responses]}

    def sleep(self) -> None:
        self._check_free("sleep")
        self.told.append("sleep")

    def wake(self) -> None:
        self.told.append("wake")

    def close(self) -> None:
        self.told.append("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _advance(self, request: TokenRequest, row: _Row) -> None:
        if row.finished:
            return
        token = next(row.script, self.end_tokens[0])
        before = row.completion
        row.completion = replace(
            before,
            token_ids=(*before.token_ids, token),
            logprobs=(*before.logprobs, -(token + self.version / 1000)),
            version=before.version if before.token_ids else self.version,
            version_changes=self._changes(before),
        )
        if token in {*self.end_tokens, *request.params.end_tokens} or self._stopped(request, row):
            row.completion, row.finished = replace(row.completion, finish="stop"), True
        elif len(row.completion.token_ids) == request.params.max_tokens:
            row.completion, row.finished = replace(row.completion, finish="length"), True

    def _changes(self, before: Completion) -> tuple[tuple[int, int], ...]:
        versions = [before.version, *(version for _, version in before.version_changes)]
        if not before.token_ids or versions[-1] == self.version:
            return before.version_changes
        return (*before.version_changes, (len(before.token_ids), self.version))

    def _stopped(self, request: TokenRequest, row: _Row) -> bool:
        if not request.params.stop:
            return False
        text = self.tokenizer.decode(row.completion.token_ids, skip_special_tokens=True)
        return any(string in text for string in request.params.stop)

    def _finish(self, id_: int) -> None:
        rows = self._running.pop(id_).rows
        self._complete.append(Completed(id_, tuple(self._closed(row.completion) for row in rows)))

    def _closed(self, completion: Completion) -> Completion:
        """Without a token there is none that an older version wrote."""
        return completion if completion.token_ids else replace(completion, version=self.version)

    def _check_free(self, call: str) -> None:
        if self._running:
            raise SamplerError(f"{call}: requests {sorted(self._running)} are running")
