"""The canary: before anything is trained, every family of parameters is seen to reach the sampler.

A threshold on the gap between learner and sampler cannot see a family that never arrives: while weights move by a
millionth a step, stale ones are hardly off. So the weights are changed on purpose, once, by as much as rounding cannot
hide, and the *change* of the sampler's log-probabilities is compared with the learner's:

    1. The sampler writes a few tokens; learner and sampler score them:         L0, S0
    2. Each family alone is perturbed until it moves the learner:               |L_f - L0| well above rounding
    3. All are perturbed together and handed over; both score again:            L1, S1
    4. What the sampler's change lacks, e = (S1 - S0) - (L1 - L0), is put down to families: with D_f = L1 - (L1 without
       the change of f), the regression e = - sum_f c_f D_f has c_f = 1 where f was withheld, 0 where it arrived.
    5. The exact original weights are handed over, and the sampler scores as at first.

One family is what its name tells without numbers of layers and experts: `self_attn.q_proj.weight`. So it costs two
hand-overs however many families there are, and works for every model. After the first updates `follow` compares the
change that training made, as soon as that is above rounding.

Axes: R responses, T tokens, N = all tokens of all responses, F families.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from reasoner.errors import HandoverError
from reasoner.handover import Gap, Publisher, gap_of, verify_gap
from reasoner.learning.learner import PerturbableLearner
from reasoner.ranks import Ranks
from reasoner.records import Group, Prompt, SamplingParams
from reasoner.sampling.base import Sampler

PERTURBED = -2
"""version of weights that nobody may sample with"""
_PROMPT_TOKENS = 16
"""of a prompt that are read: its end"""
_RESPONSES, _TOKENS = 4, 10
"""to each prompt, and of each response"""
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
_ERRORS = 5.0
"""standard errors from which a coefficient is no chance"""


@dataclass(frozen=True, slots=True)
class Family:
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
        if error > 1.0 / (2.0 * _ERRORS):
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
        few = [replace(prompt, token_ids=prompt.token_ids[-_PROMPT_TOKENS:]) for prompt in shortest]
        sampled = list(self.sampler.sample(few, _RESPONSES, SamplingParams(1.0, _TOKENS)))
        groups = [group for some in self.ranks.gather(sampled) for group in some]
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

    def _sizes(self, families: Sequence[Family]) -> tuple[dict[str, float], dict[Family, float], list[Family]]:
        """Size of the perturbation of every parameter; effect of every family; families that move nothing."""
        target = min(max(_ABOVE_NOISE * self._noise, _LEAST), _MOST)
        sizes: dict[str, float] = {}
        effects: dict[Family, float] = {}
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

    def _compare(self, sizes: Mapping[str, float], effects: Mapping[Family, float]) -> None:
        """Hand over the perturbed weights and see what becomes of the sampler's log-probabilities."""
        with self.learner.perturbed(sizes):
            change_N = _flat(self.learner.logprobs(self.groups, 1.0)) - self._before_N
            self.hand_over(Perturbed(self.learner))
            scores = self._scores()
        lacks = {engine: now - self._sampler_N[engine] - change_N for engine, now in scores.items()}
        smallest = min(effects.values())
        unclear = {engine: lack_N for engine, lack_N in lacks.items() if not _rms(lack_N) <= _CLEAR * smallest}
        if not unclear:
            return
        without = {family: self._without(sizes, family) for family in effects}
        effects_NF = torch.stack([self._before_N + change_N - each for each in without.values()], dim=1)
        for engine, lack_N in unclear.items():
            found = withheld_of(lack_N, effects_NF)
            names = ", ".join(list(effects)[at].name for at in found.families)
            if found.families and found.explained > 0.5:
                raise HandoverError(_message(engine, names))
            if found.families or not _rms(lack_N) <= _ERRORS * self._noise:
                like = f" (it looks most like a part of {names})" if names else ""
                raise HandoverError(
                    f"the sampler{_by(engine)} holds wrong weights after a hand-over: all families of parameters were "
                    f"changed on purpose, which moved the learner's log-probabilities by {_rms(change_N):.2g} nats, "
                    f"and the sampler's are {_rms(lack_N):.2g} off, which no missing family explains{like}. Its load "
                    f"garbles or leaves out a part of what it is given. {_WHAT_TO_DO}"
                )

    def _without(self, sizes: Mapping[str, float], family: Family) -> Tensor:
        """(N,) of the learner with all families perturbed but one."""
        return self._learner({name: size for name, size in sizes.items() if name not in family.parameters})

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


def families_of(names: Iterable[str]) -> list[Family]:
    """The families of parameters of these names, in their order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_family(name), []).append(name)
    return [Family(name, _spread(members)) for name, members in found.items()]


@dataclass(frozen=True, slots=True)
class Lack:
    """What the sampler's change lacks, put down to families."""

    families: tuple[int, ...]
    """those whose effects are in it beyond chance"""
    explained: float
    """share of it that their effects are: sum of squares"""


def withheld_of(lack_N: Tensor, effects_NF: Tensor) -> Lack:
    """Which families' effects are what the sampler's change lacks; none where that is rounding.

    Args:
        lack_N: change of the sampler's log-probabilities minus change of the learner's.
        effects_NF: what each family contributes to the learner's change.
    """
    fit = torch.linalg.lstsq(effects_NF.double(), -lack_N.double()[:, None], driver="gelsd").solution[:, 0]
    rest = float((lack_N.double() + effects_NF.double() @ fit).square().sum())
    count, families = effects_NF.shape
    variance = rest / max(count - families, 1)
    errors_F = (variance * torch.linalg.pinv(effects_NF.double().T @ effects_NF.double()).diagonal()).sqrt()
    sure_F = (fit > 0.25) & (fit > _ERRORS * errors_F)
    return Lack(tuple(sure_F.nonzero()[:, 0].tolist()), 1.0 - rest / float(lack_N.square().sum()))


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
    some = list(layers.values())
    chosen = {round(at * (len(some) - 1) / (_LAYERS - 1)) for at in range(_LAYERS)}
    return tuple(name for at in sorted(chosen) for name in some[at])


_WHAT_TO_DO = (
    "Its responses would come from other weights than those that are trained. Set sampling.engine = 'hf', which takes "
    "all weights of every model that transformers has, or another version of vLLM"
)


def _message(engine: str, names: str) -> str:
    adapters = "; lora.handover = 'merged' gives it whole weights" if "adapter of" in names else ""
    return (
        f"the sampler{_by(engine)} does not take what it is given of {names}: these parameters were changed on "
        "purpose, which moved the learner's log-probabilities, and the sampler's stayed as if they had not been. "
        f"Nothing was trained yet. {_WHAT_TO_DO}{adapters}"
    )


def _summary(effects: Mapping[Family, float], unseen: Sequence[Family], tokens: int) -> str:
    found = (
        f"the sampler takes all {len(effects)} families of parameters (each moved {tokens} tokens by "
        f"{min(effects.values()):.2g} to {max(effects.values()):.2g} nats)"
        if effects
        else "no parameter moves the tokens that were tried"
    )
    names = ", ".join(family.name for family in unseen)
    return f"{found}; not seen, because they move nothing here: {names}" if unseen and effects else found


def _by(engine: str) -> str:
    return f" {engine}" if engine.startswith("http") else f" of {engine}" if engine else ""


def _flat(logprobs_RT: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([value for row in logprobs_RT for value in row], dtype=torch.float64)


def _rms(values_N: Tensor) -> float:
    return float(values_N.square().mean().sqrt())


def _slope(sampler_N: Tensor, learner_N: Tensor) -> float:
    """Least squares of the sampler's change on the learner's."""
    return float((sampler_N @ learner_N) / learner_N.square().sum())
