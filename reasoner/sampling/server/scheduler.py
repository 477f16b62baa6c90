"""One batch of groups sampled by several servers.

A group is one request. It goes to the server with the fewest tokens outstanding among those that can draw it at once;
the others wait, so that a fast server gets more of them. A server takes part once it has reported that it holds the
weights that are asked for. One that fails is asked again, and is out of the batch when it holds other weights, does not
answer, has failed too often, or has made no token for too long; what it had goes to the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reasoner.records import Prompt, SamplingParams
from reasoner.sampling.server.client import Choice, Server, ServerError

FAILURES = 3
"""requests of a batch that a server may fail before it is out of it"""
ANSWER_S = 2.0
"""seconds that a batch waits for a server to say which weights it holds before it begins without it"""
LOOKS = 10.0
"""times that a server is looked at before it counts as hung"""

AsyncTask = asyncio.Task[Any]


@dataclass(frozen=True, slots=True)
class PromptResponses:
    """All responses to one prompt."""

    prompt: Prompt
    choices: Sequence[Choice]


@dataclass(frozen=True, slots=True)
class LostServer:
    """A server is out of the batch."""

    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """How every group is sampled."""

    n: int
    params: SamplingParams
    end_tokens: Sequence[int]
    weights: str
    """name of the weights (`Server.version`)"""
    patience_s: float
    """seconds without a token after which a server counts as hung"""

    def tokens(self, prompt: Prompt) -> int:
        """Of a group, at most."""
        return len(prompt.token_ids) + self.n * self.params.max_tokens


@dataclass
class ServerState:
    """A server in the batch."""

    server: Server
    slots: int
    """groups that it draws at once"""
    ready: bool = False
    """it holds the weights, and takes groups"""
    out: str = ""
    """why it is out of the batch"""
    failures: int = 0
    running: dict[AsyncTask, Prompt] = field(default_factory=dict)


class BatchSchedule:
    """The batch; `run` ends when every group, or the loss of every server, was sent.

    Args:
        seats: the servers; of two with equal load the earlier one gets a group first.
        send: called with every group, and every server that is lost.
    """

    def __init__(
        self,
        seats: Sequence[ServerState],
        prompts: Sequence[Prompt],
        order: SamplingRequest,
        send: Callable[[PromptResponses | LostServer], None],
    ) -> None:
        self._seats, self._order, self._send = seats, order, send
        self._waiting = deque(prompts)
        self._then: dict[AsyncTask, Callable[[AsyncTask], None]] = {}
        self._dropped: list[AsyncTask] = []

    async def run(self) -> None:
        """Draw all groups, or as many as there are servers for."""
        try:
            for seat in self._seats:
                self._ask(seat)
            # otherwise the first one that answers would get everything
            await asyncio.wait(self._then, timeout=ANSWER_S, return_when=asyncio.ALL_COMPLETED)
            for seat in self._seats:
                self._start(self._watch(seat), partial(self._hung, seat))
            while not all(seat.out for seat in self._seats):
                self._spread()
                if not self._waiting and not any(seat.running for seat in self._seats):
                    return
                done, _ = await asyncio.wait(self._then, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if then := self._then.pop(task, None):  # none where its server was lost a moment ago
                        then(task)
        finally:
            for task in self._then:
                task.cancel()
            await asyncio.gather(*self._then, *self._dropped, return_exceptions=True)

    def _spread(self) -> None:
        """Give groups to the servers that can sample them at once."""
        while self._waiting:
            free = [seat for seat in self._seats if seat.ready and len(seat.running) < seat.slots]
            if not free:
                return
            seat = min(free, key=lambda seat: sum(map(self._order.tokens, seat.running.values())))
            prompt, order = self._waiting.popleft(), self._order
            drawing = seat.server.generate(prompt.token_ids, order.n, order.params, order.end_tokens)
            task = self._start(drawing, partial(self._drawn, seat))
            seat.running[task] = prompt

    def _drawn(self, seat: ServerState, task: AsyncTask) -> None:
        prompt = seat.running.pop(task)
        try:
            choices: Sequence[Choice] = task.result()
            others = {span.version for choice in choices for span in choice.weight_versions} - {self._order.weights}
            if others:
                raise ServerError(f"sampled with other weights than the published ones: {sorted(others)}")
        except ServerError as error:
            self._waiting.appendleft(prompt)
            seat.failures += 1
            if seat.failures == FAILURES:
                self._lose(seat, str(error))
            elif seat.ready:
                self._ask(seat)
            return
        self._send(PromptResponses(prompt, choices))

    def _ask(self, seat: ServerState) -> None:
        """Have it say which weights it holds; no groups meanwhile."""
        seat.ready = False
        self._start(seat.server.version(), partial(self._answered, seat))

    def _answered(self, seat: ServerState, task: AsyncTask) -> None:
        try:
            held = task.result()
        except ServerError as error:
            self._lose(seat, str(error))
            return
        if held != self._order.weights:
            self._lose(
                seat, f"holds the weights {held!r}, not the current ones: it was restarted, or another run uses it"
            )
        seat.ready = not seat.out

    def _lose(self, seat: ServerState, reason: str) -> None:
        """The server is out of the batch; its groups go to the others."""
        if seat.out:
            return
        seat.ready, seat.out = False, reason
        for task, prompt in seat.running.items():
            del self._then[task]
            task.cancel()
            self._dropped.append(task)
            self._waiting.appendleft(prompt)
        seat.running.clear()
        self._send(LostServer(seat.server.url, reason))

    def _hung(self, seat: ServerState, task: AsyncTask) -> None:
        self._lose(seat, task.result())

    async def _watch(self, seat: ServerState) -> str:
        """Why the server is out; ends when it is, or counts as hung."""
        done, since = -1.0, time.monotonic()
        while not seat.out:
            await asyncio.sleep(self._order.patience_s / LOOKS)
            try:
                now = await seat.server.work_done()
            except ServerError:
                now = done
            if now != done or not seat.running:
                done, since = now, time.monotonic()
            elif time.monotonic() - since > self._order.patience_s:
                return f"made no token in {time.monotonic() - since:.0f} seconds"
        return seat.out

    def _start(self, work: Coroutine[Any, Any, Any], then: Callable[[AsyncTask], None]) -> AsyncTask:
        task = asyncio.create_task(work)
        self._then[task] = then
        return task
