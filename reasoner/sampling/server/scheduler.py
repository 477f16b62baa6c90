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
        rows = sum(entry.request.n for entry in self.running.values())
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
        states: the servers; of two with equal load the earlier one gets a request first.
        own_ends: the model's own end tokens.
        name: the name of the weights of a version (`Server.version`).
        version: of the weights that the servers hold.
        patience_s: seconds without a token after which a server counts as hung.
        send: called with every request that is complete, every server that is lost, and before a request is complete
            whose tokens are lost, with that.
    """

    def __init__(
        self,
        states: Sequence[ServerState],
        own_ends: Collection[int],
        name: Callable[[int], str],
        version: int,
        patience_s: float,
        send: Callable[[Completed | LostServer | LostTokens], None],
    ) -> None:
        self._states, self._own_ends, self._name, self._send = states, own_ends, name, send
        self._patience_s = patience_s
        self._versions = {name(version): version}
        """names of the weights that the servers have had, the present ones last"""
        self._waiting = deque[ServerRequest]()
        self._names = count()
        self._callbacks: dict[AsyncTask, Callable[[AsyncTask], None]] = {}
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
            for state in self._states:
                self._ask_version(state)
            # otherwise the first one that answers would get everything
            await asyncio.wait(self._callbacks, timeout=ANSWER_S, return_when=asyncio.ALL_COMPLETED)
            for state in self._states:
                self._start(self._watch(state), partial(self._lose_hung, state))
            self._start(self._changed.wait(), self._wake)
            while not all(state.out for state in self._states):
                self._dispatch()
                done, _ = await asyncio.wait(self._callbacks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if callback := self._callbacks.pop(task, None):  # none where its server was lost a moment ago
                        callback(task)
        finally:
            for task in self._callbacks:
                task.cancel()
            await asyncio.gather(*self._callbacks, *self._dropped, return_exceptions=True)

    async def add(self, requests: Sequence[TokenRequest]) -> None:
        """Have these continued too."""
        self._waiting.extend(ServerRequest(request, self.version) for request in requests)
        self._changed.set()

    async def abort(self, ids: Collection[int]) -> None:
        """End these requests: they are sent with what there is of them. Where their server does not say what that is,
        they are sent with nothing, after `LostTokens`."""
        for entry in [entry for entry in self._waiting if entry.request.id in ids]:
            self._waiting.remove(entry)
            self._give_up(entry)
        for state in self._states:
            for task, entry in state.running.items():
                if entry.request.id in ids and not entry.is_aborted:
                    entry.is_aborted = True
                    self._start(self._end(state, task), lambda task: task.result())

    async def pause(self) -> None:
        """The servers are about to be paused: nothing is expected of them until `resume`."""
        self._is_paused = True

    async def resume(self, version: int) -> None:
        """They are about to be resumed, with weights of this version."""
        self._versions.pop(self._name(version), None)
        self._versions[self._name(version)] = version
        self._is_paused = False
        for state in self._states:
            if not state.out:
                self._ask_version(state)
        self._changed.set()

    async def lose(self, lost: Mapping[str, str]) -> None:
        """Servers at these addresses are out, for these reasons."""
        for state in self._states:
            if reason := lost.get(state.server.url):
                self._lose(state, reason)
        self._changed.set()

    def _wake(self, task: AsyncTask) -> None:
        """There is something to look at."""
        self._changed.clear()
        self._start(self._changed.wait(), self._wake)

    def _dispatch(self) -> None:
        """Give requests to the servers that can sample them at once."""
        while self._waiting and not self._is_paused:
            request = self._waiting[0].request
            free = [state for state in self._states if state.has_room(request)]
            if not free:
                return
            state = min(free, key=lambda state: sum(entry.tokens for entry in state.running.values()))
            entry, name = self._waiting.popleft(), f"{self._name(self.version)}:{next(self._names)}"
            ends = all_end_tokens(self._own_ends, request.params)
            task = self._start(state.server.generate(request, ends, name), partial(self._take_answer, state))
            task.set_name(name)
            state.running[task] = entry

    def _take_answer(self, state: ServerState, task: AsyncTask) -> None:
        entry = state.running.pop(task)
        try:
            choices: Sequence[Choice] = task.result()
            completions = tuple(self._completion(choice, entry) for choice in choices)
        except ServerError as error:
            self._waiting.appendleft(entry)
            state.failures += 1
            state.given_back += entry.request.n
            if entry.is_aborted:
                self._give_up(self._waiting.popleft(), state)
            if state.failures == FAILURES:
                self._lose(state, str(error))
            elif state.ready:
                self._ask_version(state)
            return
        state.answered += sum(len(completion.token_ids) for completion in completions)
        self._send(Completed(entry.request.id, completions))

    def _completion(self, choice: Choice, entry: ServerRequest) -> Completion:
        """What a server answered.

        Raises:
            ServerError: it was not sampled by weights that the server was given, or was ended by somebody else.
        """
        spans = [(span.start, self._versions.get(span.version, -1)) for span in choice.weight_versions]
        if any(version < entry.since for _, version in spans) or spans != sorted(spans, key=lambda span: span[1]):
            names = sorted({span.version for span in choice.weight_versions})
            raise ServerError(f"sampled with other weights than the published ones: {names}")
        if choice.finish_reason == "abort" and not entry.is_aborted:
            raise ServerError("ended a request that nobody else should end: another run uses it")
        (_, first), *changes = spans or [(0, self.version)]
        logprobs = [token["logprob"] for token in choice.logprobs.content]
        return Completion(choice.token_ids, logprobs, choice.finish_reason, first, tuple(changes))

    def _give_up(self, entry: ServerRequest, state: ServerState | None = None) -> None:
        """A request is over of which there is nothing.

        Args:
            state: of the server where it was running; None: it did not begin.
        """
        if state is not None:
            self._send(LostTokens(state.server.url, entry.request.n))
        nothing = Completion((), (), "abort", self.version)
        self._send(Completed(entry.request.id, (nothing,) * entry.request.n))

    async def _end(self, state: ServerState, task: AsyncTask) -> None:
        """Have the server end a request; without an answer, it is over with nothing. A server that is paused is asked
        again afterwards: meanwhile it takes new weights, which may take long."""
        left = ABORT_FOR_S
        while not task.done() and left > 0:
            since = time.monotonic()
            if not self._is_paused:
                with suppress(ServerError):  # the next call may reach it, and without one its tokens are lost
                    await state.server.abort(task.get_name())
            await asyncio.wait([task], timeout=ABORT_EVERY)
            if not self._is_paused:
                left -= time.monotonic() - since
        if not task.done() and (entry := state.running.pop(task, None)):
            self._drop(task)
            self._give_up(entry, state)

    def _ask_version(self, state: ServerState) -> None:
        """Have it say which weights it holds; no requests meanwhile."""
        state.ready = False
        self._start(state.server.version(), partial(self._take_version, state, self.version))

    def _take_version(self, state: ServerState, version: int, task: AsyncTask) -> None:
        if version != self.version or self._is_paused:
            return  # it has been given others since, and is asked again
        try:
            held = task.result()
        except ServerError as error:
            self._lose(state, str(error))
            return
        if held != self._name(version):
            self._lose(
                state, f"holds the weights {held!r}, not the current ones: it was restarted, or another run uses it"
            )
        state.ready = not state.out

    def _lose(self, state: ServerState, reason: str) -> None:
        """The server is out; its requests go to the others."""
        if state.out:
            return
        state.ready, state.out = False, reason
        begun = state.given_back + sum(entry.request.n for entry in state.running.values() if not entry.is_aborted)
        for task, entry in [*state.running.items()]:
            self._drop(task)
            if entry.is_aborted:
                self._give_up(entry, state)
            else:
                self._waiting.appendleft(entry)
        state.running.clear()
        self._send(LostServer(state.server.url, reason, begun, state.unanswered))

    def _drop(self, task: AsyncTask) -> None:
        self._callbacks.pop(task, None)
        task.cancel()
        self._dropped.append(task)

    def _lose_hung(self, state: ServerState, task: AsyncTask) -> None:
        self._lose(state, task.result())

    async def _watch(self, state: ServerState) -> str:
        """Why the server is out; ends when it is, or counts as hung."""
        done, since = WorkDone(-1, -1), time.monotonic()
        while not state.out:
            try:
                now = await state.server.work_done()
            except ServerError:
                now = done
            else:
                state.written = (state.written or (now.written, 0))[0], now.written
            if now != done or not state.running or self._is_paused:
                done, since = now, time.monotonic()
            elif time.monotonic() - since > self._patience_s:
                return f"made no token in {time.monotonic() - since:.0f} seconds"
            await asyncio.sleep(self._patience_s / LOOKS)
        return state.out

    def _start(self, work: Coroutine[Any, Any, Any], callback: Callable[[AsyncTask], None]) -> AsyncTask:
        task = asyncio.create_task(work)
        self._callbacks[task] = callback
        return task
