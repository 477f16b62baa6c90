"""Sampling over the ranks, each with an engine of its own, or with one that it shares with its neighbours.

Prompts are dealt to the engines in turns. Where every request has noise of its own (vLLM on CUDA), so that it does not
matter which engine samples it, an engine that has begun all that it was dealt takes what others have not begun, as soon
as it has room: an engine with long responses does not make all wait. It has room for more groups than run at the same
time (`AHEAD`), because a group is complete only with its longest response, and its other places are free before. The
ranks take tickets for that from their store and not from each other, so that none waits for another. On a CPU, where
responses depend on what is sampled together, every engine samples what it was dealt, and a resumed run samples the
same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from reasoner.distributed.ranks import Ranks
from reasoner.distributed.seeds import derive_seed
from reasoner.records import Group, PartialGroup, Prompt, Receipt, SamplingParams
from reasoner.sampling.base import DeviceReceiver, Oldest, ParamsByTask, QueueSampler, Sampler, params_of

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

AHEAD = 3
"""times the responses that an engine runs at the same time, it has begun or queued. With 1 it would wait for the
longest response of each group with places that are free, and with all of its share it would leave nothing to take."""


class PromptTickets:
    """The prompts of one engine: those that it was dealt, in their order, then those of others that are not begun.

    The first that an engine was dealt is its own, however late it comes to it: the gap check needs responses of all.

    Args:
        ranks: all of them.
        key: of this draw, the same on all ranks and of no other draw.
        count: the prompts of all engines.
        engine: whose they are.
        engines: how many there are.
    """

    def __init__(self, ranks: Ranks, key: str, count: int, engine: int, engines: int) -> None:
        self._ranks, self._key = ranks, key
        self._dealt = {other: range(other, count, engines) for other in range(engines)}
        self._open = [*range(engine, engines), *range(engine)]
        self._own: list[int] = [*self._dealt[engine][:1]]

    def take(self) -> int | None:
        """The index of the next prompt; None: all are begun."""
        if self._own:
            return self._own.pop()
        while self._open:
            dealt = self._dealt[self._open[0]]
            number = self._ranks.ticket(f"{self._key}/{self._open[0]}")
            if number < len(dealt):
                return dealt[number]
            self._open.pop(0)
        return None


class ShardedSampler:
    """Draws this rank's share of the groups: every `count`-th prompt of `count` engines, or what `PromptTickets` gives
    it."""

    def __init__(
        self, sampler: Sampler | None, ranks: Ranks, per_engine: int = 1, *, takes_others: bool = True
    ) -> None:
        """All ranks call it together.

        Args:
            sampler: this rank's; None: the first of its neighbours holds the engine, and draws.
            ranks: all of them.
            per_engine: neighbouring ranks whose devices an engine has.
            takes_others: whether an engine may take what was dealt to another. Not where the ranks share out something
                that is needed for every response.
        """
        self._sampler, self._ranks, self._per_engine = sampler, ranks, per_engine
        self._takes_others = takes_others
        self._engine, self._engines = ranks.index // per_engine, ranks.count // per_engine
        self._loaded = self._draws = 0
        self.name, description = self._from_engine_rank((sampler.name, sampler.description) if sampler else None)
        where = f"each of {ranks.count} ranks" if per_engine == 1 else f"each {per_engine} of {ranks.count} ranks"
        self.description = f"{description}, on {where}"

    @property
    def version(self) -> int:
        return self._sampler.version if self._sampler else self._loaded

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        share = self._share(prompts)
        self._draws += 1
        if self._sampler is None or not share:
            return iter(())
        if not (self._takes_others and isinstance(self._sampler, QueueSampler) and self._sampler.independent_sequences):
            return self._sampler.sample(share, n, self._with_own_noise(params))
        seed = params_of(params, prompts[0].problem).seed
        tickets = PromptTickets(self._ranks, f"{seed}/{self._draws}", len(prompts), self._engine, self._engines)
        # no more than it was dealt: what others are about to begin is not taken from them
        most = max(1, min(len(share), AHEAD * self._sampler.independent_sequences // n))
        return self._sampler.sample_queue(prompts, tickets.take, most, n, params)

    def sample_some(
        self,
        carried: Sequence[Prompt],
        new: Sequence[Prompt],
        n: int,
        params: SamplingParams | ParamsByTask,
        wanted: int,
        oldest: Oldest,
    ) -> Iterator[Group]:
        """As in the protocol. Every engine goes on with the groups that it keeps itself, and makes its share of those
        that are wanted: none has to know how far the others are. So it never keeps more than it is to make."""
        own = [*self._share(new[:wanted]), *self._share(new[wanted:])]
        share = len(self._share(range(wanted)))
        if self._sampler is None:
            return iter(())
        return self._sampler.sample_some(carried, own, n, self._with_own_noise(params), share, oldest)

    def _share(self, items: Sequence[T]) -> Sequence[T]:
        return items[self._engine :: self._engines]

    @property
    def kept(self) -> tuple[PartialGroup, ...]:
        return self._sampler.kept if self._sampler else ()

    def keep(self, groups: Sequence[PartialGroup]) -> None:
        """As in the protocol; `groups` are those of all ranks. Every engine keeps its share."""
        if self._sampler:
            self._sampler.keep(self._share(groups))

    def _with_own_noise(self, params: SamplingParams | ParamsByTask) -> SamplingParams | ParamsByTask:
        """Engines whose requests share a generator must not draw the same noise."""
        if isinstance(self._sampler, QueueSampler) and self._sampler.independent_sequences:
            return params
        if isinstance(params, SamplingParams):
            return replace(params, seed=derive_seed(params.seed, "engine", self._engine))
        return {
            task: replace(of_task, seed=derive_seed(of_task.seed, "engine", self._engine))
            for task, of_task in params.items()
        }

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        """All groups by every engine; servers, which all ranks share, are asked once."""
        local = self._sampler.score(groups) if self._sampler else {}
        return {
            name or f"rank {rank}": logprobs
            for rank, scores in enumerate(self._ranks.gather(local))
            for name, logprobs in scores.items()
        }

    def load(self, folder: Path, version: int) -> Receipt:
        return self._received(self._sampler.load(folder, version) if self._sampler else None)

    def device_obstacle(self) -> str:
        """As `DeviceReceiver`, of this rank's engine."""
        if self._per_engine > 1:
            return f"an engine has the GPUs of {self._per_engine} ranks"
        return self._sampler.device_obstacle() if isinstance(self._sampler, DeviceReceiver) else "no engine takes them"

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        """As `DeviceReceiver`: every rank fills the buffer of its own engine."""
        assert isinstance(self._sampler, DeviceReceiver)
        receipt, sent = self._sampler.load_on_device(weights, version)
        return self._received(receipt), sent

    def change(self, folder: Path, version: int) -> Receipt:
        return self._received(self._sampler.change(folder, version) if self._sampler else None)

    def _received(self, receipt: Receipt | None) -> Receipt:
        receipt = self._from_engine_rank(receipt)
        self._loaded = receipt.version
        return receipt

    def sleep(self) -> None:
        if self._sampler:
            self._sampler.sleep()
        # the engine's memory on this rank's device is free from here on
        self._loaded = self._from_engine_rank(self._sampler.version if self._sampler else None)

    def wake(self) -> None:
        if self._per_engine > 1:
            self._ranks.gather(None)  # the engine takes memory of its neighbours' devices too: they have let it go
        if self._sampler:
            self._sampler.wake()

    def _from_engine_rank(self, value: T | None) -> T:
        """What the rank that holds this one's engine says."""
        result = value if self._per_engine == 1 else self._ranks.gather(value)[self._engine * self._per_engine]
        assert result is not None
        return result

    def close(self) -> None:
        if self._sampler:
            self._sampler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
