"""The sampler of the pipeline over any engine: responses as coroutines, groups as they complete."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import copy
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Self

from anyio.from_thread import start_blocking_portal

from reasoner.errors import RunError, SamplerError
from reasoner.records import Group, PartialGroup, Problem, Prompt, Receipt, SamplingParams
from reasoner.sampling.base import DeviceReceiver, Oldest, ParamsByTask, TokenService, WeightPreparer, params_of
from reasoner.sampling.responses import all_end_tokens, check_request, prompt_seeds, still_sampling
from reasoner.trajectories.draw import Draw, GroupInProgress, QueueDraw, Sessions
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.token_client import ABORT_S, TokenClient
from reasoner.trajectories.trajectory import GroupPrompt, SamplingContext
from reasoner.trajectories.transcript import TurnDecoder

if TYPE_CHECKING:
    from torch import Tensor


class _Sampling:
    """One call of `sample` or `sample_some`, while it runs."""

    def __init__(self) -> None:
        self.future: Future[None] | None = None
        self.ended = Event()

    def interrupt(self) -> None:
        """Have it end."""
        if self.future is not None:
            self.future.cancel()

    def cancel(self) -> None:
        """Have it end, and wait until it has."""
        if self.future is not None:
            self.future.cancel()
            self.ended.wait()


class _State:
    """What samplers over one engine share."""

    def __init__(self, service: TokenService) -> None:
        self.service = service
        self.thread = ThreadPoolExecutor(1, "sampling")
        """waits for the engine"""
        self.sampling: _Sampling | None = None
        """the last one"""
        self.is_closed = False
        self.beginning = Lock()
        """held while the engine is asked for something that it does only between two samplings"""
        self.kept: dict[str, PartialGroup] = {}
        """groups that `sample_some` left, by problem id"""
        self.sessions: Sessions = {}
        """theirs that are open"""

    def cancel(self) -> None:
        """End what is being sampled, if anything is."""
        if self.sampling is not None:
            self.sampling.cancel()

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
        if self.sampling is not None and not self.sampling.ended.is_set():
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

    def with_interactions(self, interactions: Interaction | Mapping[str, Interaction]) -> TrajectorySampler:
        """A sampler over the same engine whose responses have tools or an environment.

        Args:
            interactions: one for all problems, or by the task that a problem is of (`Problem.part`): a response to a
                problem of any other task is one turn.
        """
        other = copy(self)
        other._interactions = interactions
        return other

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        chosen = self._with_params(prompts, n, params)

        def draw(client: TokenClient, done: Callable[[Group], None]) -> Draw:
            return Draw(client, self._groups(client, chosen, n), len(chosen), {}, done)

        return self._sample(_seed_of(chosen), draw, lambda left: None)

    def sample_some(
        self,
        carried: Sequence[Prompt],
        new: Sequence[Prompt],
        n: int,
        params: SamplingParams | ParamsByTask,
        wanted: int,
        oldest: Oldest,
    ) -> Iterator[Group]:
        kept, sessions = self._state.kept, self._state.sessions
        prompts = [*(prompt for prompt in carried if prompt.problem.id in kept), *new]
        chosen = self._with_params(prompts, n, params)

        def draw(client: TokenClient, done: Callable[[Group], None]) -> Draw:
            groups = self._groups(client, chosen, n)
            for group in groups:
                if earlier := kept.get(group.group_prompt.prompt.problem.id):
                    group.take(earlier, oldest)
            return Draw(client, groups, wanted, sessions, done)

        def keep(left: Sequence[PartialGroup]) -> None:
            for prompt in prompts:
                kept.pop(prompt.problem.id, None)
            kept.update({group.problem.id: group for group in left})

        return self._sample(_seed_of(chosen), draw, keep) if wanted else iter(())

    @property
    def independent_sequences(self) -> int:
        return self._service.independent_sequences

    def sample_queue(
        self,
        prompts: Sequence[Prompt],
        take: Callable[[], int | None],
        most: int,
        n: int,
        params: SamplingParams | ParamsByTask,
    ) -> Iterator[Group]:
        """As `QueueSampler`."""
        chosen = self._with_params(prompts, n, params)

        def draw(client: TokenClient, done: Callable[[Group], None]) -> Draw:
            return QueueDraw(client, self._groups(client, chosen, n), most, {}, done, take=take)

        return self._sample(_seed_of(chosen), draw, lambda left: None)

    @property
    def kept(self) -> tuple[PartialGroup, ...]:
        return tuple(self._state.kept.values())

    def keep(self, groups: Sequence[PartialGroup]) -> None:
        self._state.kept.update({group.problem.id: group for group in groups})

    def _with_params(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask
    ) -> list[tuple[Prompt, SamplingParams]]:
        """The prompts, each with how its responses are sampled.

        Raises:
            SamplerError: the engine cannot do that.
        """
        chosen = [(prompt, params_of(params, prompt.problem)) for prompt in prompts]
        for of_some in dict.fromkeys(of_prompt for _, of_prompt in chosen):
            own = [prompt for prompt, of_prompt in chosen if of_prompt == of_some]
            check_request(own, n, of_some, self._service.max_model_len)
            all_end_tokens(self._service.end_tokens, of_some)
        return chosen

    def _groups(
        self, client: TokenClient, chosen: Sequence[tuple[Prompt, SamplingParams]], n: int
    ) -> list[GroupInProgress]:
        contexts = {params: self._context(client, params) for _, params in chosen}
        seeds = prompt_seeds(_seed_of(chosen), [prompt for prompt, _ in chosen])
        return [
            GroupInProgress(contexts[params], self._interaction_of(prompt.problem), GroupPrompt(prompt, seed), n)
            for (prompt, params), seed in zip(chosen, seeds, strict=True)
        ]

    def _context(self, client: TokenClient, params: SamplingParams) -> SamplingContext:
        ends = all_end_tokens(self._service.end_tokens, params)
        decoder = TurnDecoder(self._service.tokenizer, ends, params.stop)
        return SamplingContext(client, params, decoder, self._service.version, self._service.max_model_len)

    def _interaction_of(self, problem: Problem) -> Interaction | None:
        if isinstance(self._interactions, Interaction):
            return self._interactions
        return self._interactions.get(problem.part)

    def _sample(
        self,
        seed: int,
        draw: Callable[[TokenClient, Callable[[Group], None]], Draw],
        keep: Callable[[Sequence[PartialGroup]], None],
    ) -> Iterator[Group]:
        """
        Args:
            draw: makes what is to be done of what it is generated with, and of what takes each group.
            keep: takes what there is of the groups that are not given.
        """
        state, sampling = self._state, _Sampling()
        groups: queue.SimpleQueue[Group | None] = queue.SimpleQueue()

        async def run() -> None:
            client = TokenClient(self._service, state.thread)
            try:
                keep(await draw(client, groups.put).run())
            finally:
                sampling.ended.set()
                groups.put(None)

        with ExitStack() as stack:
            with state.beginning:
                state.check_open()
                state.check_idle("more responses")
                self._service.begin(seed)
                portal = stack.enter_context(start_blocking_portal())
                state.sampling = sampling
                sampling.future = future = portal.start_task_soon(run)
            try:
                while (group := groups.get()) is not None:
                    yield group
                with suppress(CancelledError):
                    return future.result()
                raise SamplerError("the sampler was closed while it was sampling, or did not take new weights")
            finally:
                sampling.cancel()

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        self._state.check_idle("log-probabilities")
        return self._service.score(groups)

    def load(self, folder: Path, version: int) -> Receipt:
        self._state.check_idle("new weights")
        return self._service.load(folder, version)

    def device_obstacle(self) -> str:
        """As `DeviceReceiver`."""
        if isinstance(self._service, DeviceReceiver):
            return self._service.device_obstacle()
        return f"the sampler is {self._service.name}"

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        """As `DeviceReceiver`."""
        self._state.check_idle("new weights")
        assert isinstance(self._service, DeviceReceiver)
        return self._service.load_on_device(weights, version)

    def change(self, folder: Path, version: int) -> Receipt:
        self._state.check_open()
        if isinstance(self._service, WeightPreparer):
            self._service.prepare(folder, version)  # the engine samples meanwhile
        with self._state.beginning:
            self._state.check_open()
            return self._state.thread.submit(self._change, folder, version).result()

    def _change(self, folder: Path, version: int) -> Receipt:
        """In the thread that waits for the engine: between two calls of `receive`."""
        try:
            self._service.pause()
            receipt = self._service.load(folder, version)
        except RunError:
            # what is being written would go on with weights of which nobody knows the version
            if self._state.sampling is not None:
                self._state.sampling.interrupt()  # it ends in this thread, so it is not waited for
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


def _seed_of(chosen: Sequence[tuple[Prompt, SamplingParams]]) -> int:
    """Of all of them; 0 where there are none."""
    return chosen[0][1].seed if chosen else 0
