"""Calls of the environment host as something that coroutines await."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count

from reasoner.environments.workers.protocol import (
    DROP,
    LEAVE,
    CallOutcome,
    CallRequest,
    dump_call,
    load_call_output,
    load_outcome,
)
from reasoner.errors import ConfigError, EnvironmentsError
from reasoner.io.redaction import redact
from reasoner.workers.host_process import CLOSE_S, HostProcess
from reasoner.workers.lines import CANCEL, PRINTED

CallMark = Callable[[], AbstractContextManager[None]]
"""makes a context that is entered while a call runs"""
LOOK_S = 1.0
"""seconds of silence between looks at the host"""
SLACK_S = 60.0
"""seconds beyond the longest deadline for a host on a machine that is busy: it forks and kills workers meanwhile"""
_HOST = "the environment host, which runs tools and environments,"


class HostClient:
    """The host, started; a thread of this process listens to it.

    `tell` takes what a call printed, and which it was; `working` is entered for every call.

    Raises:
        ConfigError: the host refuses the configuration.
        EnvironmentsError: it did not start.
    """

    def __init__(self, plan: bytes, tell: Callable[[str], None], working: CallMark = nullcontext) -> None:
        self._tell, self._working = tell, working
        self._host = HostProcess("environments", "reasoner.environments.workers.host", plan)
        self._waiting: dict[int, tuple[str, Future[CallOutcome]]] = {}
        """call -> what it is, and who waits for it"""
        self._lock = threading.Lock()
        self._calls, self._seats = count(1), count(1)
        self._longest = 0.0
        """seconds of the longest deadline so far"""
        self._heard = 0
        """lines so far"""
        self._failure: Exception | None = None
        """why no outcome will arrive any more"""
        try:
            self._check_start(self._host.first_line())
        except BaseException:
            self._host.close()
            raise
        self._inbox = self._host.listen()
        self._listener = threading.Thread(target=self._listen, name="environments", daemon=True)
        self._listener.start()

    def new_seat(self) -> int:
        """A seat for what keeps state; it has no worker before its first call."""
        return next(self._seats)

    def leave(self, seat: int) -> None:
        """End a seat, its worker and everything that this started."""
        if not self._host.closed:
            self._host.send(b"%b %d\n" % (LEAVE, seat))

    async def call(self, what: str, seat: int, timeout_s: float, request: CallRequest) -> CallOutcome:
        """What becomes of a call. Cancelled, it ends the worker that is at it.

        Args:
            what: the call in messages.

        Raises:
            EnvironmentsError: the host died, is silent, or was closed.
            Exception: what `tell` raised, in this call or in one before it.
        """
        future: Future[CallOutcome] = Future()
        future.set_running_or_notify_cancel()  # it gets its outcome, also when nobody waits any more
        with self._lock:
            if self._host.closed:
                raise self._host_error()
            if self._failure is not None:
                raise self._failure
            call = next(self._calls)
            self._waiting[call] = what, future
            self._longest = max(self._longest, timeout_s)
        self._host.send(dump_call(call, seat, timeout_s, request))
        try:
            with self._working():
                return await self._outcome(future)
        except asyncio.CancelledError:
            if not self._host.closed:
                self._host.send(b"%b %d\n" % (DROP, call))
            raise
        finally:
            with self._lock:
                self._waiting.pop(call, None)

    def cancel(self) -> None:
        """Forget every call and end every seat."""
        if not self._host.closed:
            self._host.send(CANCEL + b"\n")

    def close(self) -> None:
        """End the host and everything below it; safe to call twice."""
        self._host.close()
        self._listener.join(CLOSE_S)  # what could not be ended may hold the other end of its pipe

    async def _outcome(self, future: Future[CallOutcome]) -> CallOutcome:
        """Every call has a deadline and several run at a time, so a host with calls is never silent for longer than the
        longest deadline. Looks are counted and not seconds: while this process was stopped, so was the host.

        Raises:
            EnvironmentsError: the host died, or is silent for too long.
            Exception: what `tell` raised.
        """
        waiting = asyncio.wrap_future(future)
        quiet, heard = 0, self._heard
        try:
            while not (await asyncio.wait([waiting], timeout=LOOK_S))[0]:
                quiet, heard = (quiet + 1, heard) if heard == self._heard else (0, self._heard)
                if self._failure is not None:
                    continue  # on its way into the future
                if self._host.has_died():
                    self._fail_all(self._host_error())
                    continue
                self._host.was_stopped()
                if quiet > math.ceil((self._longest + SLACK_S) / LOOK_S):
                    self._fail_all(
                        EnvironmentsError(
                            f"{_HOST} has been silent for {SLACK_S:g} seconds more than the longest deadline of its "
                            f"calls; it {self._host.obituary()}"
                        )
                    )
            return waiting.result()
        finally:
            waiting.cancel()

    def _listen(self) -> None:
        """The thread: hand each line to whoever waits for it, until there are no more or one cannot be dealt with."""
        try:
            while (line := self._inbox.get()) is not None:
                self._heard += 1
                self._deal_with(line)
        except Exception as error:  # whoever waits raises it
            self._fail_all(error)
        else:
            self._fail_all(self._host_error())

    def _deal_with(self, line: bytes) -> None:
        if line.startswith(PRINTED):
            call, text = load_call_output(line)
            with self._lock:
                what, _ = self._waiting.get(call, ("", None))
            if what:  # not cancelled
                self._tell(f"{what} printed:\n{redact(text)}")
            return
        outcome = load_outcome(line)
        outcome = replace(outcome, message=redact(outcome.message), trace=redact(outcome.trace))
        with self._lock:
            _, future = self._waiting.get(outcome.call, ("", None))
            if future is not None and not future.done():
                future.set_result(outcome)

    def _fail_all(self, error: Exception) -> None:
        """All calls, those that wait and those to come, fail with the first such error: finding out how a host that is
        stuck ended takes seconds in which the event loop stands still, so it is done once and not per call."""
        with self._lock:
            self._failure = self._failure or error
            for _, future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._failure)

    def _host_error(self) -> EnvironmentsError:
        if self._host.closed:
            return EnvironmentsError("tools and environments were closed; open them again")
        return EnvironmentsError(f"{_HOST} {self._host.obituary()}")

    def _check_start(self, line: bytes | None) -> None:
        if line is None:
            raise EnvironmentsError(f"the environment host did not start: it {self._host.obituary()}")
        try:
            answer = json.loads(line)
            refused = answer.get("refused")
        except (ValueError, AttributeError) as error:
            raise EnvironmentsError(f"the environment host did not start: {error}; got {line[:200]!r}") from error
        if refused is not None:
            raise ConfigError(str(refused))
