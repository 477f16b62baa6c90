"""The sampler of a training run, kept at the learner's weights: weight sync, proof that it arrives, sleep and wake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reasoner.config.config import Config
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.distributed.ranks import Ranks
from reasoner.learning.device import release_device_memory
from reasoner.learning.learner import PerturbableLearner
from reasoner.records import Prompt, Receipt, SamplingParams
from reasoner.sampling.base import Sampler
from reasoner.training.guards.canary import Canary
from reasoner.training.weight_sync import Publisher, gap_limit, hand_over

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SyncedSampler:
    """A sampler and the learner whose weights it samples with. All ranks call the methods together."""

    config: Config
    sampler: Sampler
    learner: PerturbableLearner
    ranks: Ranks
    turn_end: TurnEnd
    """what ends a response beside the model's own end tokens"""
    say: Callable[[str], None]
    """shows a sentence"""
    samples_meanwhile: bool = False
    """another thread may be sampling while weights are published"""
    steps: int = 0
    """steps that sampled, since this start"""
    asleep: bool = False
    """the sampler has given its memory back"""
    _announced: set[str] = field(default_factory=set)
    """sentences that are the same at every step, and are shown once"""

    @property
    def check_due(self) -> bool:
        """Whether sampler and learner are compared at this step: at the first that samples, at the second (after a
        weight sync), then at every k-th."""
        return self.steps in (1, 2) or self.steps % self.config.handover.check_every == 0

    def publish(self) -> None:
        """Give the sampler the learner's weights, if they have changed.

        Raises:
            HandoverError: the sampler did not take them.
        """
        if self.learner.version != self.sampler.version:
            self._hand_over(self.learner)

    def prove(self, prompts: Sequence[Prompt]) -> str:
        """Before anything is trained: every family of parameters reaches the sampler (`canary`); returns how well.

        Raises:
            RunError: one does not; or the sampler gives other log-probabilities than the learner, or failed.
        """
        self.publish()
        return self._canary.prove(prompts)

    def follow(self) -> None:
        """After the first update, and then at every k-th step until it is seen: the sampler, which has the learner's
        weights, follows it (`canary`).

        Raises:
            RunError: it does not, or failed.
        """
        if self.check_due and (result := self._canary.follow()):
            self.say(result)

    def sleep(self) -> None:
        """Have the sampler give its memory back."""
        if not self.asleep:
            self.sampler.sleep()
            self.asleep = True

    def wake(self) -> None:
        """Give the sampler its memory again, on a device that the learner shares with it after the learner has let go
        of what it does not use: torch keeps the peak of an update."""
        if self.asleep:
            release_device_memory()
            self.sampler.wake()
            self.asleep = False

    @cached_property
    def _canary(self) -> Canary:
        limit = gap_limit(self.config.model.dtype, self.config.handover.max_gap, quantized=self.config.quantized)
        sampling = self.config.sampling
        params = SamplingParams(sampling.temperature, sampling.max_tokens, tuple(sampling.stop))
        params = self.turn_end.added_to(params)
        return Canary(
            self.learner, self.sampler, self.ranks, limit, self._hand_over, params, quantized=self.config.quantized
        )

    def _hand_over(self, publisher: Publisher) -> None:
        parent = self.config.sampling.weights_folder
        receiver = _InFlight(self.sampler) if self.samples_meanwhile else self.sampler
        hand_over(publisher, receiver, self.ranks, parent, self._announce)

    def _announce(self, text: str) -> None:
        if text not in self._announced:
            self._announced.add(text)
            self.say(text)


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Takes weights under what is being sampled."""

    sampler: Sampler

    @property
    def version(self) -> int:
        return self.sampler.version

    def device_obstacle(self) -> str:
        return "they change under what is being sampled"

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        raise NotImplementedError(self.device_obstacle())

    def load(self, folder: Path, version: int) -> Receipt:
        return self.sampler.change(folder, version)
