"""The canary: before anything is trained, every family of parameters is seen to reach the sampler.

A threshold on the gap between learner and sampler cannot see a family that never arrives: while weights move by a
millionth a step, stale ones are hardly off. So the weights are changed on purpose, once, by as much as rounding cannot
hide, and the *change* of the sampler's log-probabilities is compared with the learner's:

    1. The sampler writes a few tokens; learner and sampler score them:         L0, S0
    2. Each family alone is perturbed until it moves the learner:               |L_f - L0| well above rounding
    3. All are perturbed together and handed over; both score again:            L1, S1
    4. S1 - S0 is to be L1 - L0. Where it is not, families are left out of the learner's perturbation, one after the
       other, as long as that brings its change nearer to the sampler's: those are the ones that did not arrive. With
       weights that are quantised on one side the changes differ anyway, and least squares say of which families less
       than half arrived.
    5. The exact original weights are handed over, and the sampler scores as at first.

One family is what its name tells without numbers of layers and experts: `self_attn.q_proj.weight`. So it costs two
hand-overs however many families there are, and works for every model. After the first updates `follow` compares the
change that training made, as soon as that is above rounding.

Axes: R responses, T tokens, N = all tokens of all responses, F families.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reasoner.distributed.ranks import Ranks
from reasoner.errors import HandoverError
from reasoner.learning.learner import PerturbableLearner
from reasoner.records import Group, Prompt, SamplingParams
from reasoner.sampling.base import Sampler
from reasoner.sampling.vllm.messages import MERGED_ADVICE
from reasoner.training.weight_sync import DevicePublisher, Gap, Publisher, gap_of, verify_gap

PERTURBED = -2
"""version of weights that nobody may sample with"""
_PROMPT_TOKENS = 16
"""of a prompt that are read: its end"""
_RESPONSES, _TOKENS = 4, 10
"""to each prompt, and of each response"""
_RESPONSES_QUANTIZED = 16
"""the same where one side's weights are quantised: what that makes is told from what is lost by many tokens alone"""
_LAYERS = 3
"""of a family that are perturbed: the first, the last and the one between"""
_FIRST_SIZE = 0.05
"""of a perturbation, relative to the weight's elements, that is tried first"""
_TRIES = 6
_ABOVE_NOISE = 8.0
"""times rounding by which a family is to move the learner"""
_LEAST, _MOST = 0.05, 1.0
"""nats by which a family is to move the learner at least and, where it need not be more, at most: root mean square"""
_CLEAR = 0.2
"""share of the smallest family's effect below which what the sampler's change lacks is no family"""
_BETTER = 0.985
"""factor by which a family must bring the learner's change nearer to the sampler's; rounding brings it no nearer"""
_QUANTIZED_NOISE = 0.06
"""nats of the difference that count as rounding where one side's weights are quantised: the rest of it was there before
and is there afterwards"""
_QUANTIZED_SHARE = 0.8
"""Of the learner's change, by which the sampler's may then differ altogether: other weights answer the same adapter in
other ways. A change that has nothing to do with the learner's differs by 1 at least; 0.6 was seen where everything
arrived, of small models with a gap of half a nat"""
_ARRIVED = 0.5
"""share of a family's effect of which more is to arrive: halfway between one that does not and one that does"""
_ROUNDING = 5.0
"""times rounding before anything was changed that it may be afterwards: 1.2 to 2.7 were seen"""
_ERRORS = 5.0
"""standard errors that tell a slope of 1 from 0.5, and a family that is lost from chance"""


@dataclass(frozen=True, slots=True)
class ParameterFamily:
    """Parameters that differ in their layer or expert only."""

    name: str
    """`self_attn.q_proj.weight`"""
    parameters: tuple[str, ...]
    """those that are perturbed"""


@dataclass(frozen=True, slots=True)
class Perturbed:
    """A learner whose weights are perturbed, as a publisher of weights of their own."""

    learner: PerturbableLearner
    version: int = PERTURBED

    def publish(self, folder: Path) -> str:
        """As of `Learner`."""
        return self.learner.publish(folder)

    def device_weights(self) -> Iterator[tuple[str, Tensor]] | None:
        """As of `DevicePublisher`."""
        return self.learner.device_weights() if isinstance(self.learner, DevicePublisher) else None


@dataclass
class Canary:
    """The check, and what `follow` needs of it."""

    learner: PerturbableLearner
    sampler: Sampler
    ranks: Ranks
    limit: float
    """mean gap per token that is rounding (`handover.gap_limit`)"""
    hand_over: Callable[[Publisher], object]
    """gives the sampler somebody's weights"""
    params: SamplingParams
    """what ends a response is the same here; the rest of it is not"""
    quantized: bool = False
    """whether one of the two holds weights of fewer bits (`Config.quantized`)"""
    groups: list[Group] = field(init=False)
    """the tokens that are scored"""
    settled: bool = field(init=False, default=True)
    """whether `follow` has nothing more to find out"""
    _before_N: Tensor = field(init=False)
    """of the learner"""
    _sampler_N: dict[str, Tensor] = field(init=False)
    """of every engine"""
    _noise: float = field(init=False)
    """root mean square of what rounding makes, nats"""

    def prove(self, prompts: Sequence[Prompt]) -> str:
        """Run the check; returns what it found, for the log. A collective.

        Args:
            prompts: of the task; their ends are continued.

        Raises:
            HandoverError: a family of parameters does not reach the sampler, or it gives other log-probabilities than
                the learner before anything was changed.
        """
        self._start(prompts)
        families = families_of(self.learner.trained)
        sizes, effects, unseen = self._sizes(families)
        if sizes:
            self._compare(sizes, effects)
            self._restore()
        self.settled = False
        return _summary(effects, unseen, self._before_N.numel())

    def follow(self) -> str:
        """Compare the change that training made with the sampler's, where it is above rounding; returns what was found,
        or nothing. A collective; the sampler holds the learner's weights.

        Raises:
            HandoverError: the sampler does not follow the learner.
        """
        if self.settled:
            return ""
        change_N = self._learner({}) - self._before_N
        error = math.sqrt(2.0) * self._noise / max(float(change_N.norm()), 1e-12)
        if _ERRORS * error > 0.5:
            return ""
        slopes = {name: _slope(now - self._sampler_N[name], change_N) for name, now in self._scores().items()}
        for engine, slope in slopes.items():
            if not slope > 0.5:
                raise HandoverError(
                    f"the sampler{_by(engine)} does not follow the learner: where training moved the learner's "
                    f"log-probabilities by 1, it moved the sampler's by {slope:.2f} (+- {error:.2f}, {len(change_N)} "
                    f"tokens). {_WHAT_TO_DO}"
                )
        self.settled = True
        least = min(slopes.values(), key=lambda slope: -abs(slope - 1.0))
        moved = _rms(change_N)
        return f"the sampler follows the learner: {least:.2f} of {moved:.2g} nats that training moved its tokens by"

    def _start(self, prompts: Sequence[Prompt]) -> None:
        """Have every engine continue a prompt, and compare before anything is changed."""
        shortest = sorted(prompts, key=lambda prompt: len(prompt.token_ids))[: max(2, self.ranks.count)]
        tails = [replace(prompt, token_ids=prompt.token_ids[-_PROMPT_TOKENS:]) for prompt in shortest]
        params = replace(self.params, temperature=1.0, max_tokens=min(_TOKENS, self.params.max_tokens))
        responses = _RESPONSES_QUANTIZED if self.quantized else _RESPONSES
        sampled = list(self.sampler.sample(tails, responses, params))
        # scored by the sampler, which then chooses experts anew, as the learner is to do
        groups = [group.without_routes() for share in self.ranks.gather(sampled) for group in share]
        groups.sort(key=lambda group: group.problem.id)
        with self.learner.perturbed({}):
            scored = self.learner.logprobs(groups, 1.0)
        verify_gap(gap_of(scored, groups), self.limit)
        self.groups = groups[:2]
        self._before_N = _flat(scored[: sum(len(group.responses) for group in self.groups)])
        self._sampler_N = self._scores()
        for engine, scores_N in self._sampler_N.items():
            self._verify(engine, scores_N)
        self._noise = max(_rms(scores_N - self._before_N) for scores_N in self._sampler_N.values()) + 1e-6
        if self.quantized:
            self._noise = min(self._noise, _QUANTIZED_NOISE)

    def _sizes(
        self, families: Sequence[ParameterFamily]
    ) -> tuple[dict[str, float], dict[ParameterFamily, float], list[ParameterFamily]]:
        """Size of the perturbation of every parameter; effect of every family; families that move nothing."""
        target = min(max(_ABOVE_NOISE * self._noise, _LEAST), _MOST)
        sizes: dict[str, float] = {}
        effects: dict[ParameterFamily, float] = {}
        for family in families:
            size = _FIRST_SIZE
            for _ in range(_TRIES):
                effect = _rms(self._learner(dict.fromkeys(family.parameters, size)) - self._before_N)
                if target / 2 <= effect <= max(2 * target, _MOST / 2):
                    break
                size *= min(max(target / max(effect, 1e-9), 0.1), 10.0) if math.isfinite(effect) else 0.1
            if 4.0 * self._noise <= effect < math.inf:
                sizes |= dict.fromkeys(family.parameters, size)
                effects[family] = effect
        return sizes, effects, [family for family in families if family not in effects]

    def _compare(self, sizes: Mapping[str, float], effects: Mapping[ParameterFamily, float]) -> None:
        """Hand over the perturbed weights and see what becomes of the sampler's log-probabilities."""
        with self.learner.perturbed(sizes):
            change_N = _flat(self.learner.logprobs(self.groups, 1.0)) - self._before_N
            self.hand_over(Perturbed(self.learner))
            scores = self._scores()
        moved = {engine: now - self._sampler_N[engine] for engine, now in scores.items()}
        clear = _CLEAR * min(effects.values())
        unclear = {engine: moved_N for engine, moved_N in moved.items() if not _rms(moved_N - change_N) <= clear}
        if not unclear:
            return
        without = {family: self._without(sizes, [family]) for family in effects}
        for engine, moved_N in unclear.items():
            rounding = _ROUNDING * self._noise
            if self.quantized:
                withheld, rest_N = _lost_families(moved_N, change_N, without), moved_N - change_N
                rounding, explained = max(rounding, _QUANTIZED_SHARE * _rms(change_N)), bool(withheld)
            else:
                withheld, rest_N = self._withheld(moved_N, change_N, without, sizes)
                explained = bool(withheld) and _rms(rest_N) < 0.7 * _rms(moved_N - change_N)
            names = ", ".join(family.name for family in withheld)
            if explained:
                raise HandoverError(_message(engine, names))
            if withheld or not _rms(rest_N) <= rounding:
                raise HandoverError(
                    f"the sampler{_by(engine)} holds wrong weights after a hand-over: all families of parameters were "
                    f"changed on purpose, which moved the learner's log-probabilities by {_rms(change_N):.2g} nats, "
                    f"and the sampler's are {_rms(moved_N - change_N):.2g} off, which no missing family explains"
                    f"{f', {names} the best' if names else ''}. Its load garbles or leaves out a part of what it is "
                    f"given. {_WHAT_TO_DO}"
                )

    def _withheld(
        self, moved_N: Tensor, change_N: Tensor, without: Mapping[ParameterFamily, Tensor], sizes: Mapping[str, float]
    ) -> tuple[list[ParameterFamily], Tensor]:
        """The families without which the learner moves as the sampler did, and what is left of the difference: one
        after the other, the one that explains most of it first.

        Args:
            moved_N, change_N: change of the sampler's log-probabilities, and of the learner's.
            without: change of the learner's without each family.
        """
        missing: list[ParameterFamily] = []
        rest_N = moved_N - change_N
        while (
            rests := {f: rest_N + change_N - without_N for f, without_N in without.items() if f not in missing}
        ) and (_rms(rests[best := min(rests, key=lambda family: _rms(rests[family]))]) < _BETTER * _rms(rest_N)):
            missing.append(best)
            rest_N = moved_N - self._without(sizes, missing)
        return missing, rest_N

    def _without(self, sizes: Mapping[str, float], withheld: Sequence[ParameterFamily]) -> Tensor:
        """(N,) change of the learner's log-probabilities with all families perturbed but these."""
        same = {name for family in withheld for name in family.parameters}
        return self._learner({name: size for name, size in sizes.items() if name not in same}) - self._before_N

    def _restore(self) -> None:
        """Hand over the original weights again, and see that the sampler has them."""
        self.hand_over(self.learner)
        for engine, scores_N in self._scores().items():
            self._verify(engine, scores_N)

    def _verify(self, engine: str, scores_N: Tensor) -> None:
        if scores_N.shape != self._before_N.shape:
            raise HandoverError(f"the sampler{_by(engine)} scored {len(scores_N)} of {len(self._before_N)} tokens")
        verify_gap(Gap.between(self._before_N.tolist(), scores_N.tolist()), self.limit)

    def _learner(self, sizes: Mapping[str, float]) -> Tensor:
        """(N,) log-probabilities by the learner, with so large perturbations."""
        with self.learner.perturbed(sizes):
            return _flat(self.learner.logprobs(self.groups, 1.0))

    def _scores(self) -> dict[str, Tensor]:
        """(N,) by every engine."""
        return {engine: _flat(logprobs) for engine, logprobs in self.sampler.score(self.groups).items()}


def _lost_families(
    moved_N: Tensor, change_N: Tensor, without: Mapping[ParameterFamily, Tensor]
) -> list[ParameterFamily]:
    """The families of which less than half arrived, where the two sides hold other weights and no change of the one is
    exactly that of the other: least squares of the difference of the changes on the effect of every family, which is 0
    times it where it arrived, and -1 times it where not, beside what the other weights make.

    Args:
        moved_N, change_N: change of the sampler's log-probabilities, and of the learner's.
        without: change of the learner's without each family.
    """
    effects_NF = torch.stack([change_N - without_N for without_N in without.values()], dim=1)
    tokens, families = effects_NF.shape
    if tokens <= families:  # nothing is left to tell chance by
        return []
    rest_N, inverse_FN = moved_N - change_N, torch.linalg.pinv(effects_NF)
    arrived_F = 1.0 + inverse_FN @ rest_N
    chance_N = rest_N - effects_NF @ (arrived_F - 1.0)
    errors_F = (chance_N.square().sum() / (tokens - families)).sqrt() * inverse_FN.norm(dim=1)
    lost_F = (arrived_F < _ARRIVED) & (1.0 - arrived_F > _ERRORS * errors_F)
    return [family for family, lost in zip(without, lost_F.tolist(), strict=True) if lost]


def families_of(names: Iterable[str]) -> list[ParameterFamily]:
    """The families of parameters of these names, in their order."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(_family(name), []).append(name)
    return [ParameterFamily(name, _spread(members)) for name, members in families.items()]


def _family(name: str) -> str:
    """`self_attn.q_proj.weight` of `model.layers.3.self_attn.q_proj.weight`; an adapter's two matrices are one family,
    because each of them alone may change nothing."""
    inside = re.split(r"\.\d+\.", name)
    last = ".*.".join(inside[1:]) if len(inside) > 1 else name
    module, adapter, _ = last.partition(".lora_")
    return f"adapter of {module}" if adapter else last.replace(".base_layer.", ".")


def _spread(members: Sequence[str]) -> tuple[str, ...]:
    """Those of a few layers: enough to see whether the family arrives, and little to remember."""
    layers: dict[str, list[str]] = {}
    for name in members:
        number = re.search(r"\.(\d+)\.", name)
        layers.setdefault(number[1] if number else "", []).append(name)
    names = list(layers.values())
    chosen = {round(at * (len(names) - 1) / (_LAYERS - 1)) for at in range(_LAYERS)}
    return tuple(name for at in sorted(chosen) for name in names[at])


_WHAT_TO_DO = (
    "Its responses would come from other weights than those that are trained. Set sampling.engine = 'hf', which takes "
    "all weights of every model that transformers has (not with quantised ones), or take another version of vLLM"
)


def _message(engine: str, names: str) -> str:
    adapters = f". Or, so that it gets whole weights: {MERGED_ADVICE}" if "adapter of" in names else ""
    return (
        f"the sampler{_by(engine)} does not take what it is given of {names}: these parameters were changed on "
        "purpose, which moved the learner's log-probabilities, and the sampler's stayed as if they had not been. "
        f"Nothing was trained yet. {_WHAT_TO_DO}{adapters}"
    )


def _summary(effects: Mapping[ParameterFamily, float], unseen: Sequence[ParameterFamily], tokens: int) -> str:
    moved = (
        f"the sampler takes all {len(effects)} families of parameters (each moved {tokens} tokens by "
        f"{min(effects.values()):.2g} to {max(effects.values()):.2g} nats)"
        if effects
        else "no parameter moves the tokens that were tried"
    )
    names = ", ".join(family.name for family in unseen)
    return f"{moved}; not seen, because they move nothing here: {names}" if unseen and effects else moved


def _by(engine: str) -> str:
    return f" {engine}" if engine.startswith("http") else f" of {engine}" if engine else ""


def _flat(logprobs_RT: Sequence[Sequence[float]]) -> Tensor:
    return torch.from_numpy(np.concatenate(logprobs_RT, dtype=np.float64))


def _rms(values_N: Tensor) -> float:
    return float(values_N.square().mean().sqrt())


def _slope(sampler_N: Tensor, learner_N: Tensor) -> float:
    """Least squares of the sampler's change on the learner's."""
    return float((sampler_N @ learner_N) / learner_N.square().sum())
