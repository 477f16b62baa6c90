"""Continuations of an engine as something that coroutines await."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import count
from logging import getLogger

from reasoner.errors import SamplerError
from reasoner.records import SamplingParams
from reasoner.sampling.base import Completed, Completion, TokenRequest, TokenService

_MOST_NAMED = 5
"""requests that a message names"""
_log = getLogger(__name__)

_RECEIVE_S = 1.0
"""seconds of one call of `receive`; nothing depends on them but how soon a mistake in the engine would be seen"""
_LOOK_S = 0.05
"""least seconds between two looks at whether it has ended something"""
ABORT_S = 60.0
"""seconds that an engine has to end what it is told to end: longer than a step of a slow one, and than servers are
asked to (`reasoner.sampling.server.scheduler.ABORT_FOR_S`)"""


class TokenClient:
    """Asks an engine for continuations; belongs to one event loop, and is closed in it.

    What coroutines ask for at the same time is one batch: a step without tools is submitted as a whole, in the order
    in which its coroutines were started.

    Args:
        service: the engine; nothing runs in it.
        thread: where it is waited for, and given new weights: one thread, so that the engine sees the same one always.
    """

    def __init__(self, service: TokenService, thread: Executor) -> None:
        self._service, self._thread = service, thread
        self._ids = count()
        self._new: list[TokenRequest] = []
        self._waiting: dict[int, asyncio.Future[tuple[Completion, ...]]] = {}
        self._descriptions: dict[int, str] = {}
        """what each request continues, in words"""
        self._receiving: asyncio.Task[None] | None = None
        self._queued_at: float | None = None
        """since when a call of `receive` waits for the thread"""
        self._queued_s = 0.0
        """seconds that earlier calls waited for it"""
        self._has_failed = False
        self.is_stopped = False
        """nothing is generated any more: what was being generated was interrupted"""

    async def generate(
        self, token_ids: Sequence[int], n: int, params: SamplingParams, what: str
    ) -> tuple[Completion, ...]:
        """`n` continuations of the token ids; those that `stop` interrupts have finish reason `abort` and the tokens
        that there are.

        Args:
            what: is continued, for messages.

        Raises:
            SamplerError: the engine failed, or is gone.
        """
        if self.is_stopped:
            return (_empty_completion(self._service.version),) * n
        loop = asyncio.get_running_loop()
        request = TokenRequest(next(self._ids), token_ids, n, params)
        future: asyncio.Future[tuple[Completion, ...]] = loop.create_future()
        self._waiting[request.id] = future
        self._descriptions[request.id] = what
        self._new.append(request)
        if len(self._new) == 1:
            loop.call_soon(self._submit)
        return await future

    async def stop(self) -> None:
        """Interrupt every generation, and wait until the engine has nothing to do; those that are asked for from now on
        do not begin.

        Raises:
            SamplerError: the engine failed, or is gone, or does not end them within `ABORT_S` seconds; those in which
                it was given new weights do not count.
        """
        self.is_stopped = True
        for request in self._new:
            future = self._waiting.pop(request.id)
            if not future.done():
                future.set_result((_empty_completion(self._service.version),) * request.n)
        self._new = []
        if not await self._end_all(self._engine_clock):
            raise SamplerError(
                f"the engine did not end what it was told to end within {ABORT_S:g} s: it hangs. {self._names()}"
            )

    async def close(self) -> None:
        """End every generation that still runs, and wait until the engine has nothing to do. An engine that has failed
        is left as it is, and so is one that hangs, after `ABORT_S` seconds.

        Raises:
            SamplerError: the engine failed, or is gone.
        """
        for request in self._new:
            del self._waiting[request.id]
        self._new = []
        if not await self._end_all(time.monotonic):
            _log.warning(
                "the engine did not end %d requests within %g s: it hangs, and is left as it is",
                len(self._waiting),
                ABORT_S,
            )

    async def _end_all(self, clock: Callable[[], float]) -> bool:
        """Have the engine end what runs; whether it did within `ABORT_S` seconds of this clock."""
        if self._has_failed or not self._waiting:
            return True
        self._service.abort([*self._waiting])
        if (receiving := self._receiving) is not None:
            until = clock() + ABORT_S
            while not receiving.done() and (left := until - clock()) > 0:
                await asyncio.wait({receiving}, timeout=max(left, _LOOK_S))
            if not receiving.done():
                self._has_failed = True
                receiving.cancel()
        return not self._has_failed or not self._waiting

    def _engine_clock(self) -> float:
        """Seconds that stand still while `receive` waits for the thread: the engine is given new weights there, which
        may take long, and has a limit of its own."""
        now = time.monotonic()
        return now - self._queued_s - (0.0 if self._queued_at is None else now - self._queued_at)

    def _names(self) -> str:
        """What is being continued, for messages."""
        names = [self._descriptions[id_] for id_ in self._waiting]
        more = f"; and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"It was sampling: {'; '.join(names[:_MOST_NAMED])}{more}"

    def _submit(self) -> None:
        requests, self._new = self._new, []
        if not requests:
            return
        try:
            self._service.submit(requests)
        except Exception as error:
            self._fail([request.id for request in requests], error)
            return
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                self._queued_at = time.monotonic()
                done = await loop.run_in_executor(self._thread, self._next)
                if done is not None:
                    future = self._waiting.pop(done.id)
                    del self._descriptions[done.id]
                    if not future.done():
                        future.set_result(done.completions)
        except SamplerError as error:
            named = SamplerError(f"{error}\n{self._names()}")
            named.__cause__ = error
            self._fail([*self._waiting], named)
        except Exception as error:
            self._fail([*self._waiting], error)
        finally:
            self._receiving = None

    def _next(self) -> Completed | None:
        """In the thread."""
        assert self._queued_at is not None
        self._queued_s += time.monotonic() - self._queued_at
        self._queued_at = None
        return self._service.receive(_RECEIVE_S)

    def _fail(self, ids: list[int], error: Exception) -> None:
        self._has_failed = True
        for id_ in ids:
            future = self._waiting.pop(id_)
            if not future.done():
                future.set_exception(error)


def _empty_completion(version: int) -> Completion:
    """A continuation that did not begin."""
    return Completion((), (), "abort", version)
