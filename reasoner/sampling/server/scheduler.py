"""Requests that several servers continue, until the servers get other work.

A request goes to the server with the fewest tokens outstanding among those that can continue it at once; the others
wait, so that a fast server gets more of them. A server takes part once it has reported that it holds the weights that
are asked for. One that fails is asked again, and is out when it holds other weights, does not answer, has failed too
often, or has made no token for too long; what it had goes to the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from reasoner.sampling.base import Completed, Completion, TokenRequest
from reasoner.sampling.responses import all_end_tokens
from reasoner.sampling.server.client import Choice, Server, ServerError, WorkDone

FAILURES = 3
"""requests that a server may fail before it is out"""
ANSWER_S = 2.0
"""seconds that requests wait for a server to say which weights it holds before they begin without it"""
LOOKS = 10.0
"""times that a server is looked at before it counts as hung"""
ABORT_EVERY = 1.0
"""seconds between calls that end a request, which may reach the server before the request does"""
ABORT_FOR_S = 20.0
"""seconds of such calls before what was generated is given up"""

AsyncTask = asyncio.Task[Any]


@dataclass(frozen=True, slots=True)
class LostServer:
    """A server is out."""

    url: str
    reason: str
    continuations: int = 0
    """that it was writing, and that others begin again"""
    tokens: int | None = None
    """that it had written and not answered when it was looked at last, for whoever asked it; None: nobody knows"""


@dataclass(frozen=True, slots=True)
class LostTokens:
    """A server did not say what there was of a request that it was to end: nobody knows how many tokens."""

    url: str
    continuations: int


@dataclass(eq=False)
class ServerRequest:
    """A request that has been submitted."""

    request: TokenRequest
    since: int
    """version of the weights when it was submitted"""
    is_aborted: bool = False

    @property
    def tokens(self) -> int:
        """At most."""
        return len(self.request.token_ids) + self.request.n * self.request.params.max_tokens


@dataclass
class ServerState:
    """A server among the others."""

    server: Server
    sequences: int
    """continuations that it samples at once"""
    ready: bool = False
    """it holds the weights, and takes requests"""
    out: str = ""
    """why it is out"""
    failures: int = 0
    given_back: int = 0
    """continuations that it failed"""
    answered: int = 0
    """tokens"""
    written: tuple[int, int] | None = None
    """tokens since it started, when it was looked at first and last; None: it was not"""
    running: dict[AsyncTask, ServerRequest] = field(default_factory=dict)

    def has_room(self, request: TokenRequest) -> bool:
        """Whether it samples a request at once."""
        rows = sum(each.request.n for each in self.running.values())
        return self.ready and (not rows or rows + request.n <= self.sequences)

    @property
    def unanswered(self) -> int | None:
        """Tokens that it has written and not answered; None: nobody knows."""
        if self.written is None or self.written[1] < self.written[0]:  # it was started again
            return None
        return max(0, self.written[1] - self.written[0] - self.answered)


class RequestSchedule:
    """What is submitted, until `run` is cancelled or every server is lost.

    Args:
        seats: the servers; of two with equal load the earlier one gets a request first.
        own_ends: the model's own end tokens.
        name: the name of the weights of a version (`Server.version`).
        version: of the weights that the servers hold.
        patience_s: seconds without a token after which a server counts as hung.
        send: called with every request that is complete, every server that is lost, and before a request is complete
            whose tokens are lost, with that.
    """

    def __init__(
        self,
        seats: Sequence[ServerState],
        own_ends: Collection[int],
        name: Callable[[int], str],
        version: int,
        patience_s: float,
        send: Callable[[Completed | LostServer | LostTokens], None],
    ) -> None:
        self._seats, self._own_ends, self._name, self._send = seats, own_ends, name, send
        self._patience_s = patience_s
        self._versions = {name(version): version}
        """names of the weights that the servers have had, the present ones last"""
        self._waiting = deque[ServerRequest]()
        self._names = count()
        self._then: dict[AsyncTask, Callable[[AsyncTask], None]] = {}
        self._dropped: list[AsyncTask] = []
        self._changed = asyncio.Event()
        self._is_paused = False

    @property
    def version(self) -> int:
        """Of the weights that the servers hold."""
        return [*self._versions.values()][-1]

    async def run(self) -> None:
        """Continue what was submitted, as long as there are servers for it."""
        try:
            for seat in self._seats:
                self._ask(seat)
            # otherwise the first one that answers would get everything
            await asyncio.wait(self._then, timeout=ANSWER_S, return_when=asyncio.ALL_COMPLETED)
            for seat in self._seats:
                self._start(self._watch(seat), partial(self._hung, seat))
            self._start(self._changed.wait(), self._change)
            while not all(seat.out for seat in self._seats):
                self._spread()
                done, _ = await asyncio.wait(self._then, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if then := self._then.pop(task, None):  # none where its server was lost a moment ago
                        then(task)
        finally:
            for task in self._then:
                task.cancel()
            await asyncio.gather(*self._then, *self._dropped, return_exceptions=True)

    async def add(self, requests: Sequence[TokenRequest]) -> None:
        """Have these continued too."""
        self._waiting.extend(ServerRequest(request, self.version) for request in requests)
        self._changed.set()

    async def abort(self, ids: Collection[int]) -> None:
        """End these requests: they are sent with what there is of them. Where their server does not say what that is,
        they are sent with nothing, after `LostTokens`."""
        for each in [each for each in self._waiting if each.request.id in ids]:
            self._waiting.remove(each)
            self._give_up(each)
        for seat in self._seats:
            for task, each in seat.running.items():
                if each.request.id in ids and not each.is_aborted:
                    each.is_aborted = True
                    self._start(self._end(seat, task), lambda task: task.result())

    async def pause(self) -> None:
        """The servers are about to be paused: nothing is expected of them until `resume`."""
        self._is_paused = True

    async def resume(self, version: int) -> None:
        """They are about to be resumed, with weights of this version."""
        self._versions.pop(self._name(version), None)
        self._versions[self._name(version)] = version
        self._is_paused = False
        for seat in self._seats:
            if not seat.out:
                self._ask(seat)
        self._changed.set()

    async def lose(self, lost: Mapping[str, str]) -> None:
        """Servers at these addresses are out, for these reasons."""
        for seat in self._seats:
            if reason := lost.get(seat.server.url):
                self._lose(seat, reason)
        self._changed.set()

    def _change(self, task: AsyncTask) -> None:
        """There is something to look at."""
        self._changed.clear()
        self._start(self._changed.wait(), self._change)

    def _spread(self) -> None:
        """Give requests to the servers that can sample them at once."""
        while self._waiting and not self._is_paused:
            request = self._waiting[0].request
            free = [seat for seat in self._seats if seat.has_room(request)]
            if not free:
                return
            seat = min(free, key=lambda seat: sum(each.tokens for each in seat.running.values()))
            each, name = self._waiting.popleft(), f"{self._name(self.version)}:{next(self._names)}"
            ends = all_end_tokens(self._own_ends, request.params)
            task = self._start(seat.server.generate(request, ends, name), partial(self._answered, seat))
            task.set_name(name)
            seat.running[task] = each

    def _answered(self, seat: ServerState, task: AsyncTask) -> None:
        each = seat.running.pop(task)
        try:
            choices: Sequence[Choice] = task.result()
            completions = tuple(self._completion(choice, each) for choice in choices)
        except ServerError as error:
            self._waiting.appendleft(each)
            seat.failures += 1
            seat.given_back += each.request.n
            if each.is_aborted:
                self._give_up(self._waiting.popleft(), seat)
            if seat.failures == FAILURES:
                self._lose(seat, str(error))
            elif seat.ready:
                self._ask(seat)
            return
        seat.answered += sum(len(completion.token_ids) for completion in completions)
        self._send(Completed(each.request.id, completions))

    def _completion(self, choice: Choice, each: ServerRequest) -> Completion:
        """What a server answered.

        Raises:
            ServerError: it was not sampled by weights that the server was given, or was ended by somebody else.
        """
        spans = [(span.start, self._versions.get(span.version, -1)) for span in choice.weight_versions]
        if any(version < each.since for _, version in spans) or spans != sorted(spans, key=lambda span: span[1]):
            names = sorted({span.version for span in choice.weight_versions})
            raise ServerError(f"sampled with other weights than the published ones: {names}")
        if choice.finish_reason == "abort" and not each.is_aborted:
            raise ServerError("ended a request that nobody else should end: another run uses it")
        (_, first), *changes = spans or [(0, self.version)]
        logprobs = [token["logprob"] for token in choice.logprobs.content]
        return Completion(choice.token_ids, logprobs, choice.finish_reason, first, tuple(changes))

    def _give_up(self, each: ServerRequest, seat: ServerState | None = None) -> None:
        """A request is over of which there is nothing.

        Args:
            seat: where it was running; None: it did not begin.
        """
        if seat is not None:
            self._send(LostTokens(seat.server.url, each.request.n))
        nothing = Completion((), (), "abort", self.version)
        self._send(Completed(each.request.id, (nothing,) * each.request.n))

    async def _end(self, seat: ServerState, task: AsyncTask) -> None:
        """Have the server end a request; without an answer, it is over with nothing. A server that is paused is asked
        again afterwards: meanwhile it takes new weights, which may take long."""
        left = ABORT_FOR_S
        while not task.done() and left > 0:
            since = time.monotonic()
            if not self._is_paused:
                with suppress(ServerError):  # the next call may reach it, and without one its tokens are lost
                    await seat.server.abort(task.get_name())
            await asyncio.wait([task], timeout=ABORT_EVERY)
            if not self._is_paused:
                left -= time.monotonic() - since
        if not task.done() and (each := seat.running.pop(task, None)):
            self._drop(task)
            self._give_up(each, seat)

    def _ask(self, seat: ServerState) -> None:
        """Have it say which weights it holds; no requests meanwhile."""
        seat.ready = False
        self._start(seat.server.version(), partial(self._said, seat, self.version))

    def _said(self, seat: ServerState, version: int, task: AsyncTask) -> None:
        if version != self.version or self._is_paused:
            return  # it has been given others since, and is asked again
        try:
            held = task.result()
        except ServerError as error:
            self._lose(seat, str(error))
            return
        if held != self._name(version):
            self._lose(
                seat, f"holds the weights {held!r}, not the current ones: it was restarted, or another run uses it"
            )
        seat.ready = not seat.out

    def _lose(self, seat: ServerState, reason: str) -> None:
        """The server is out; its requests go to the others."""
        if seat.out:
            return
        seat.ready, seat.out = False, reason
        begun = seat.given_back + sum(each.request.n for each in seat.running.values() if not each.is_aborted)
        for task, each in [*seat.running.items()]:
            self._drop(task)
            if each.is_aborted:
                self._give_up(each, seat)
            else:
                self._waiting.appendleft(each)
        seat.running.clear()
        self._send(LostServer(seat.server.url, reason, begun, seat.unanswered))

    def _drop(self, task: AsyncTask) -> None:
        self._then.pop(task, None)
        task.cancel()
        self._dropped.append(task)

    def _hung(self, seat: ServerState, task: AsyncTask) -> None:
        self._lose(seat, task.result())

    async def _watch(self, seat: ServerState) -> str:
        """Why the server is out; ends when it is, or counts as hung."""
        done, since = WorkDone(-1, -1), time.monotonic()
        while not seat.out:
            try:
                now = await seat.server.work_done()
            except ServerError:
                now = done
            else:
                seat.written = (seat.written or (now.written, 0))[0], now.written
            if now != done or not seat.running or self._is_paused:
                done, since = now, time.monotonic()
            elif time.monotonic() - since > self._patience_s:
                return f"made no token in {time.monotonic() - since:.0f} seconds"
            await asyncio.sleep(self._patience_s / LOOKS)
        return seat.out

    def _start(self, work: Coroutine[Any, Any, Any], then: Callable[[AsyncTask], None]) -> AsyncTask:
        task = asyncio.create_task(work)
        self._then[task] = then
        return task
