"""The sampler over vLLM servers (`reasoner serve`), on this machine or others.

Unlike an engine of one's own, the servers hold nothing that the run can rely on until it has given them weights: the
first `load` comes before the first `sample`. Weights have a name that no other run uses, and every response says by
which weights it was sampled: a server that was restarted, or that another run has given weights, contributes nothing.

The same seed gives other responses: which server draws what, and in which order, depends on their load. On CUDA every
request has a seed of its own, whichever server draws it: what then differs is rounding, which depends on what is drawn
together.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.distributed.seeds import derive_seed
from reasoner.errors import HandoverError, RunError, SamplerError
from reasoner.models.tokenizer import open_tokenizer
from reasoner.records import Group, Receipt
from reasoner.sampling.base import Completed, TokenRequest
from reasoner.sampling.responses import check_tokens, end_tokens, still_sampling
from reasoner.sampling.server.client import Server, ServerError
from reasoner.sampling.server.compatibility import ServerRequirements, describe, summary
from reasoner.sampling.server.offer import WeightOffer
from reasoner.sampling.server.pull import PullOrder
from reasoner.sampling.server.scheduler import LostServer, LostTokens, RequestSchedule, ServerState

T = TypeVar("T")

PATIENCE_S = 180.0
"""seconds without a token after which a server counts as hung"""


@dataclass(frozen=True, slots=True)
class _PulledWeights:
    """What came of having servers pull weights."""

    version: int
    folders: dict[str, Path]
    """address of a server -> the weights, on its machine"""
    out: dict[str, str]
    """address of a server that did not pull them -> why"""


@dataclass(frozen=True, slots=True)
class _LoadedWeights:
    """What came of giving weights to the servers."""

    receipt: tuple[str, int]
    out: dict[str, str]
    """address of a server that did not take them -> why"""


@dataclass(frozen=True, slots=True)
class _Scored:
    """What the servers say of given responses."""

    logprobs: dict[str, list[list[float]]]
    """address -> (R)(T)"""
    out: dict[str, str]
    """address of a server that did not say -> why"""


class ServerSampler:
    """Samples with vLLM servers.

    Args:
        urls: their addresses.
        folder: model and tokenizer in Hugging Face format.
        wanted: what the servers must be.
        seed: of the run.
        say: told when a server is lost, and when it is back.
        ranks: all of them sample; the first one gives the servers their weights.
        patience_s: seconds without a token after which a server counts as hung.

    Raises:
        UserError: a server cannot be used.
    """

    name = "servers"

    def __init__(
        self,
        urls: Sequence[str],
        folder: Path,
        wanted: ServerRequirements,
        *,
        seed: int,
        say: Callable[[str], None],
        trust_remote_code: bool = False,
        ranks: Ranks = ALONE,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.tokenizer: Any = open_tokenizer(folder, trust_remote_code)
        self.end_tokens = end_tokens(folder, self.tokenizer)
        self.max_model_len = wanted.max_model_len
        self.independent_sequences = 0  # all ranks have the same servers, which take from what all of them ask for
        self._seed, self._say, self._ranks, self._patience_s = seed, say, ranks, patience_s
        self._base = wanted.base
        self._owner = ranks.broadcast(uuid.uuid4().hex[:12])
        self._version = -1
        self._out: dict[str, str] = {}
        self._running: set[int] = set()
        self._is_paused = False
        self._pulled: _PulledWeights | None = None
        """what `prepare` did, for the next `load`"""
        self._schedule: RequestSchedule | None = None
        self._scheduled: Future[None] | None = None
        self._events: queue.SimpleQueue[Completed | LostServer | LostTokens | None] = queue.SimpleQueue()
        self._lost = Counter[str]()
        """address of a server -> continuations whose tokens it did not give back, since that was last said"""
        self._idle = threading.Event()
        self._idle.set()
        self._servers = [Server(url.rstrip("/")) for url in urls]
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            for server in self._servers:
                stack.callback(self._portal.call, server.close)
            descriptions = self._portal.call(partial(describe, self._servers, wanted, try_pull=ranks.first))
            self._pulling = {server.url for server in wanted.pulling(self._servers, descriptions)}
            self._offer: WeightOffer | None = None
            if self._pulling and ranks.first:
                self._offer = WeightOffer(self._pulling)
                stack.callback(self._offer.close)
            self._stack = stack.pop_all()
        self._sequences = {
            server.url: max(1, description.max_sequences // ranks.count)
            for server, description in zip(self._servers, descriptions, strict=True)
        }
        sequences = f"up to {sum(self._sequences.values())} sequences at once"
        self.description = (
            f"{summary(urls, descriptions)}; {wanted.way(urls, descriptions)}; {sequences}; the same seed gives other "
            "responses"
        )

    @property
    def version(self) -> int:
        """As in the protocol; -1 before the first `load`."""
        return self._version

    def begin(self, seed: int) -> None:
        """As in the protocol; the noise is that of each request's own seed, or on a CPU of the servers' generators."""
        self._check_free("another seed")
        self._need_weights()
        self._end_schedule()
        if len(self._out) < len(self._servers):
            # from now on weights may change: what is submitted later belongs to a schedule that knows of it
            self._begin_schedule()

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        check_tokens(requests, self._running, self.max_model_len)
        self._need_weights()
        if len(self._out) == len(self._servers):
            raise SamplerError(_none_left(self._out))
        self._running.update(request.id for request in requests)
        if self._schedule is None:
            self._begin_schedule()
        assert self._schedule is not None
        self._portal.call(self._schedule.add, requests)

    def _begin_schedule(self) -> None:
        first = self._ranks.index % len(self._servers)  # ranks do not all start with the same server
        states = [
            ServerState(server, self._sequences[server.url])
            for server in (*self._servers[first:], *self._servers[:first])
            if server.url not in self._out
        ]
        # of this schedule alone: what another one still says belongs to requests that are over
        self._events = queue.SimpleQueue()
        events = self._events
        schedule = RequestSchedule(states, self.end_tokens, self._name, self._version, self._patience_s, events.put)

        async def run() -> None:
            try:
                await schedule.run()
            finally:
                events.put(None)
                self._idle.set()

        self._idle.clear()
        self._schedule, self._scheduled = schedule, self._portal.start_task_soon(run)

    def _end_schedule(self) -> None:
        """Nothing runs any more: what comes next begins with all servers that hold the weights."""
        self._cancel()
        self._schedule = self._scheduled = None

    def _cancel(self) -> None:
        """End what runs."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._idle.wait()

    def receive(self, timeout_s: float | None = None) -> Completed | None:
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        if self._is_paused:
            ends = 0.0
        while self._running:
            try:
                event = self._events.get(timeout=None if ends is None else max(0.0, ends - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(event, Completed):
                self._running.remove(event.id)
                if not self._running:
                    self._say_lost()
                return event
            if event is None:
                self._explain_end()
            elif isinstance(event, LostTokens):
                self._lost[event.url] += event.continuations
            else:
                self._lose(event.url, event.reason, self._what_is_lost(event))
        return None

    def _what_is_lost(self, event: LostServer) -> str:
        """Of what a server was writing, in words; its count of tokens is that of all ranks."""
        if not event.continuations:
            return ""
        known = event.tokens is not None and self._ranks.count == 1
        tokens = f"at least {event.tokens}" if known else "nobody knows how many"
        return (
            f". {event.continuations} responses that it was writing are begun again, from what there was before: "
            f"{tokens} of their tokens are lost"
        )

    def _say_lost(self) -> None:
        """Once for all that was interrupted together, which is at the end of a step."""
        if self._lost:
            of_each = ", ".join(f"{count} by {url}" for url, count in sorted(self._lost.items()))
            self._say(
                f"WARNING: {self._lost.total()} responses were interrupted and their servers did not give back what "
                f"they had written of them ({of_each}): those tokens are lost, and not in tokens/discarded, because "
                "nobody knows how many they were. What is continued goes on from what there was before"
            )
            self._lost.clear()

    def _explain_end(self) -> None:
        """Raise what ended the schedule."""
        assert self._scheduled is not None
        self._running.clear()
        if self._scheduled.cancelled():
            raise SamplerError("the sampler was closed while it was sampling")
        self._scheduled.result()
        raise SamplerError(_none_left(self._out))

    def abort(self, ids: Collection[int]) -> None:
        if self._schedule is not None:
            self._portal.call(self._schedule.abort, ids)

    def pause(self) -> None:
        """As in the protocol; a collective."""
        self._is_paused = True
        if self._schedule is not None:
            self._portal.call(self._schedule.pause)
        self._lose_all(self._from_first_rank(lambda: self._portal.call(self._tell, Server.pause)))

    def resume(self) -> None:
        """As in the protocol; a collective."""
        self._lose_all(self._from_first_rank(lambda: self._portal.call(self._tell, Server.resume)))
        self._is_paused = False
        if self._schedule is not None:
            self._portal.call(self._schedule.resume, self._version)

    async def _tell(self, method: Callable[[Server], Coroutine[Any, Any, None]]) -> dict[str, str]:
        """Tell every server that is there; returns those that did not do it, and why."""
        _, out = await _ask_all([server for server in self._servers if server.url not in self._out], method)
        return out

    def _lose_all(self, out: Mapping[str, str]) -> None:
        for url, reason in out.items():
            self._lose(url, reason)
        if self._schedule is not None:
            self._portal.call(self._schedule.lose, out)

    def _from_first_rank(self, work: Callable[[], T]) -> T:
        """What the first rank makes of it, for all of them; its failure is raised on all."""
        result: T | RunError | None = None
        if self._ranks.first:
            try:
                result = work()
            except RunError as error:  # the other ranks wait for word of it
                result = error
        result = self._ranks.broadcast(result)
        if isinstance(result, RunError):
            raise result
        if result is None:
            raise SamplerError("the first rank did not say what became of the servers; this is a bug")
        return result

    def _check_free(self, what: str) -> None:
        if self._running:
            raise SamplerError(still_sampling(what))

    def _need_weights(self) -> None:
        if self._version < 0:
            raise SamplerError("the servers were asked for responses before they were given weights; this is a bug")

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        """As in the protocol; a collective. Every server that holds the weights scores all of them.

        Raises:
            SamplerError: no server is left.
        """
        self._check_free("log-probabilities")
        scored = self._from_first_rank(lambda: self._portal.call(self._score, groups))
        for url, why in scored.out.items():
            self._lose(url, why)
        if not scored.logprobs:
            raise SamplerError(_none_left(self._out))
        return scored.logprobs

    async def _score(self, groups: Sequence[Group]) -> _Scored:
        servers = [server for server in self._servers if server.url not in self._out]
        return _Scored(*await _ask_all(servers, lambda server: self._score_with(server, groups)))

    async def _score_with(self, server: Server, groups: Sequence[Group]) -> list[list[float]]:
        rows = [(group.prompt_ids, response.token_ids) for group in groups for response in group.responses]
        scored = await asyncio.gather(*(server.score(prompt, response) for prompt, response in rows))
        if others := {name for _, names in scored for name in names} - {self._name(self._version)}:
            raise ServerError(f"scored with other weights than those that it was given: {sorted(others)}")
        return [logprobs for logprobs, _ in scored]

    def prepare(self, folder: Path, version: int) -> None:
        """As in `WeightPreparer`; a collective. Servers that pull their weights pull them now; what went wrong is the
        business of `load`."""
        self._pulled = self._from_first_rank(lambda: self._pull(folder, version))

    def load(self, folder: Path, version: int) -> Receipt:
        """As in the protocol; a collective. Servers that were lost are back if they take the weights.

        Raises:
            SamplerError: no server took them, or, the first time, not all did.
            HandoverError: servers read different weights.
        """
        started = time.monotonic()
        if not self._is_paused:
            self._check_free("new weights")
            self._end_schedule()
        loaded = self._from_first_rank(lambda: self._pull_and_give(folder, version))
        back = [url for url in self._out if url not in loaded.out]
        self._lose_all(loaded.out)
        for url in back:
            del self._out[url]
            self._say(f"{url} is back, with the weights of version {version}")
        self._version = version
        checksum, tensors = loaded.receipt
        return Receipt(version, checksum, tensors, time.monotonic() - started)

    def _pull_and_give(self, folder: Path, version: int) -> _LoadedWeights:
        pulled, self._pulled = self._pulled, None
        if pulled is None or pulled.version != version:
            pulled = self._pull(folder, version)
        return self._portal.call(self._give, folder, pulled)

    def _pull(self, folder: Path, version: int) -> _PulledWeights:
        if self._offer is None:
            return _PulledWeights(version, {}, {})
        with self._offer.offering(folder, self._name(version)) as order:
            return self._portal.call(self._pull_by_all, order, version)

    async def _pull_by_all(self, order: PullOrder, version: int) -> _PulledWeights:
        servers = [server for server in self._servers if server.url in self._pulling]
        return _PulledWeights(version, *await _ask_all(servers, lambda server: server.pull(order)))

    async def _give(self, folder: Path, pulled: _PulledWeights) -> _LoadedWeights:
        receipts, out = await _ask_all(self._servers, lambda server: self._give_to(server, folder, pulled))
        if not receipts:
            raise SamplerError(_none_left(out))
        if out and self._version < 0:
            raise SamplerError(
                "; ".join(f"the server {url} did not take the weights: it {why}" for url, why in out.items())
            )
        if len(set(receipts.values())) > 1:
            raise HandoverError(f"the servers read different weights from {folder}: {receipts}")
        return _LoadedWeights(next(iter(receipts.values())), out)

    async def _give_to(self, server: Server, folder: Path, pulled: _PulledWeights) -> tuple[str, int]:
        if why := pulled.out.get(server.url):
            raise ServerError(why)
        folder = pulled.folders.get(server.url, folder)
        keep = self._is_paused and server.url not in self._out
        seed = self._seed_of(self._servers.index(server), pulled.version)
        return await server.take(folder, self._name(pulled.version), seed, keep=keep, base=self._base)

    def _lose(self, url: str, reason: str, lost: str = "") -> None:
        """
        Args:
            lost: what it was writing, in words.
        """
        if url not in self._out:
            self._say(f"WARNING: {url} {reason}; it is tried again with the next weights{lost}")
        self._out[url] = reason

    def _name(self, version: int) -> str:
        return f"{self._owner}:{version}"

    def _seed_of(self, index: int, version: int) -> int:
        """Another one for every server and version: a vLLM that is started again begins with the same one."""
        return derive_seed(self._seed, "server", index, version, self._owner)

    def sleep(self) -> None:
        """The servers have memory of their own."""

    def wake(self) -> None:
        """They are awake."""

    def close(self) -> None:
        self._cancel()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


async def _ask_all(
    servers: Sequence[Server], question: Callable[[Server], Coroutine[Any, Any, T]]
) -> tuple[dict[str, T], dict[str, str]]:
    """Ask servers at the same time.

    Returns:
        address of a server -> its answer, and of each that failed -> why.
    """
    answers = await asyncio.gather(*map(question, servers), return_exceptions=True)
    answered: dict[str, T] = {}
    failures: dict[str, str] = {}
    for server, answer in zip(servers, answers, strict=True):
        if isinstance(answer, ServerError):
            failures[server.url] = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            answered[server.url] = answer
    return answered, failures


def _none_left(reasons: Mapping[str, str]) -> str:
    return "no vLLM server is left to sample with:\n" + "\n".join(f"  {url} {why}" for url, why in reasons.items())
