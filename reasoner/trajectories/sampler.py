"""The sampler of the pipeline over any engine: responses as coroutines, groups as they complete."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import copy
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Self

from anyio import CancelScope
from anyio.from_thread import start_blocking_portal

from reasoner.errors import RunError, SamplerError
from reasoner.records import Group, Problem, Prompt, Receipt, Response, SamplingParams
from reasoner.sampling.base import DeviceReceiver, ParamsByTask, TokenService, params_of
from reasoner.sampling.responses import all_end_tokens, check_request, prompt_seeds, still_sampling
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.token_client import ABORT_S, TokenClient
from reasoner.trajectories.trajectory import Engine, GroupPrompt, Trajectory, single_turns
from reasoner.trajectories.transcript import Reading

if TYPE_CHECKING:
    from torch import Tensor


class _State:
    """What samplers over one engine share."""

    def __init__(self, service: TokenService) -> None:
        self.service = service
        self.thread = ThreadPoolExecutor(1, "sampling")
        """waits for the engine"""
        self.sampling: Future[None] | None = None
        self.idle = Event()
        self.idle.set()
        self.is_closed = False
        self.beginning = Lock()
        """held while the engine is asked for something that it does only between two samplings"""

    def cancel(self) -> None:
        """End what is being sampled, if anything is."""
        if self.sampling is not None:
            self.sampling.cancel()
            self.idle.wait()

    def end(self) -> None:
        """Begin nothing any more, and end what is being sampled."""
        self.is_closed = True
        # what is beginning has begun then, and is cancelled; where it hangs, it ends with the engine
        if self.beginning.acquire(timeout=ABORT_S):
            self.beginning.release()
        self.cancel()

    def check_open(self) -> None:
        if self.is_closed:
            raise SamplerError("this sampler is closed; open another")

    def check_idle(self, what: str) -> None:
        if not self.idle.is_set():
            raise SamplerError(still_sampling(what))


class TrajectorySampler:
    """See `reasoner.sampling.base.Sampler`.

    Args:
        service: the engine; closed with the sampler.
    """

    def __init__(self, service: TokenService) -> None:
        self._state, self._service = _State(service), service
        self._interactions: Interaction | Mapping[str, Interaction] = {}
        self.name, self.description = service.name, service.description

    @property
    def version(self) -> int:
        return self._service.version

    def interacting(self, interactions: Interaction | Mapping[str, Interaction]) -> TrajectorySampler:
        """A sampler over the same engine whose responses have tools or an environment.

        Args:
            interactions: one for all problems, or by the task that a problem is of (`Problem.part`): a response to a
                problem of any other task is one turn.
        """
        other = copy(self)
        other._interactions = interactions
        return other

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        chosen = [params_of(params, prompt.problem) for prompt in prompts]
        readings = {}
        for each in dict.fromkeys(chosen):
            own = [prompt for prompt, theirs in zip(prompts, chosen, strict=True) if theirs == each]
            check_request(own, n, each, self._service.max_model_len)
            readings[each] = Reading(self._service.tokenizer, all_end_tokens(self._service.end_tokens, each), each.stop)
        return self._sample(prompts, n, [(each, readings[each]) for each in chosen])

    def _sample(
        self, prompts: Sequence[Prompt], n: int, chosen: Sequence[tuple[SamplingParams, Reading]]
    ) -> Iterator[Group]:
        """
        Args:
            chosen: how responses to each prompt are sampled, and how they are read.
        """
        state, service = self._state, self._service
        seed = chosen[0][0].seed if chosen else 0
        groups: queue.SimpleQueue[Group | None] = queue.SimpleQueue()

        async def sampling() -> None:
            client = TokenClient(service, state.thread)
            engines = [Engine(client, *each, service.version, service.max_model_len) for each in chosen]
            opened = map(GroupPrompt, prompts, prompt_seeds(seed, prompts))
            try:
                await self._collect(client, list(zip(engines, opened, strict=True)), n, groups.put)
            finally:
                state.idle.set()
                groups.put(None)

        with ExitStack() as stack:
            with state.beginning:
                state.check_open()
                state.check_idle("more responses")
                service.begin(seed)
                portal = stack.enter_context(start_blocking_portal())
                state.idle.clear()
                state.sampling = portal.start_task_soon(sampling)
            try:
                while (group := groups.get()) is not None:
                    yield group
                with suppress(CancelledError):
                    return state.sampling.result()
                raise SamplerError("the sampler was closed while it was sampling, or did not take new weights")
            finally:
                state.cancel()

    async def _collect(
        self, client: TokenClient, groups: Sequence[tuple[Engine, GroupPrompt]], n: int, done: Callable[[Group], None]
    ) -> None:
        """Make all responses at the same time; `done` takes each group that is complete."""
        collected = [dict[int, Response]() for _ in groups]
        tasks = [asyncio.ensure_future(job) for job in self._jobs(groups, n)]
        try:
            for task in asyncio.as_completed(tasks):
                index, responses = await task
                collected[index] |= responses
                if len(collected[index]) == n:
                    ordered = tuple(collected[index][sample] for sample in range(n))
                    _, group = groups[index]
                    done(Group(group.prompt.problem, group.token_ids, ordered))
        finally:
            with CancelScope(shield=True):
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await client.close()

    def _jobs(self, groups: Sequence[tuple[Engine, GroupPrompt]], n: int) -> Iterator[_Job]:
        """A coroutine for every prompt; with an interaction, for every response."""
        for index, (engine, group) in enumerate(groups):
            if interaction := self._interaction(group.prompt.problem):
                yield from (_one(index, Trajectory(engine, interaction, group, sample)) for sample in range(n))
            else:
                yield _group(engine, index, group, n)

    def _interaction(self, problem: Problem) -> Interaction | None:
        found = self._interactions
        return found if isinstance(found, Interaction) else found.get(problem.part)

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        self._state.check_idle("log-probabilities")
        return self._service.score(groups)

    def load(self, folder: Path, version: int) -> Receipt:
        self._state.check_idle("new weights")
        return self._service.load(folder, version)

    def why_not_on_device(self) -> str:
        """As `DeviceReceiver`."""
        if isinstance(self._service, DeviceReceiver):
            return self._service.why_not_on_device()
        return f"the sampler is {self._service.name}"

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        """As `DeviceReceiver`."""
        self._state.check_idle("new weights")
        assert isinstance(self._service, DeviceReceiver)
        return self._service.load_on_device(weights, version)

    def change(self, folder: Path, version: int) -> Receipt:
        with self._state.beginning:
            self._state.check_open()
            return self._state.thread.submit(self._change, folder, version).result()

    def _change(self, folder: Path, version: int) -> Receipt:
        """In the thread that waits for the engine: between two calls of `receive`."""
        self._service.pause()
        try:
            receipt = self._service.load(folder, version)
        except RunError:
            # what is being written would go on with weights of which nobody knows the version
            if self._state.sampling is not None:
                self._state.sampling.cancel()
            with suppress(SamplerError):  # where the load ended the engine, its own error says why
                self._service.resume()
            raise
        self._service.resume()
        return receipt

    def sleep(self) -> None:
        self._state.check_idle("sleep")
        self._service.sleep()

    def wake(self) -> None:
        self._service.wake()

    def close(self) -> None:
        self._state.end()
        self._service.close()
        self._state.thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_Job = Coroutine[Any, Any, tuple[int, dict[int, Response]]]
"""gives the index of a prompt, and responses to it by their index in the group"""


async def _group(engine: Engine, index: int, group: GroupPrompt, n: int) -> tuple[int, dict[int, Response]]:
    return index, dict(enumerate(await single_turns(engine, group, n)))


async def _one(index: int, trajectory: Trajectory) -> tuple[int, dict[int, Response]]:
    return index, {trajectory.sample: await trajectory.run()}
