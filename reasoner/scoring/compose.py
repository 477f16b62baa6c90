"""From what a reward source returned to the reward of a response. Pure.

reward = sum_k weight_k * value_k        None (abstained) as soon as one component failed
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real

from reasoner.config import RewardConfig
from reasoner.errors import ConfigError, ScoringError, nearest
from reasoner.records import Component, Failure, Score
from reasoner.rewards_api import RewardSource

MAX_RESULT_BYTES = 2**20
"""bytes of JSON that the parts and the note of one score may take together"""
MAX_DEPTH = 32
"""levels of nesting in the parts of a score"""


class InvalidScoreError(ValueError):
    """A reward source returned something that is not a finite score."""


def check_rewards(rewards: Sequence[RewardConfig], sources: Mapping[str, RewardSource]) -> None:
    """Refuse reward sources that are not registered and options that they do not have.

    Raises:
        ConfigError: with the key, the value and the nearest valid name.
    """
    for index, reward in enumerate(rewards):
        if reward.source not in sources:
            raise ConfigError(
                f"rewards[{index}].source: there is no reward source {reward.source!r}."
                f"{nearest(reward.source, sources)} Registered: {', '.join(sorted(sources)) or 'none'}."
            )
        try:
            sources[reward.source].check_options(reward.options)
        except ConfigError as error:
            raise ConfigError(f"rewards[{index}].options: {error}") from error


def verdict(returned: object) -> Score | None:
    """What a source returned as a score that can be stored, or None for "not applicable".

    Raises:
        InvalidScoreError: not a number, not finite, or with parts that JSON cannot hold.
    """
    if returned is None:
        return None
    score = returned if isinstance(returned, Score) else Score(_finite(returned))
    if not isinstance(score.note, str):
        raise InvalidScoreError(f"Score.note must be text, got {_shown(score.note)}")
    try:
        _check_depth(score.parts, MAX_DEPTH)
        size = len(json.dumps([dict(score.parts), score.note], allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidScoreError(f"Score.parts must hold JSON values only: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise InvalidScoreError(f"parts and note of a score may take {MAX_RESULT_BYTES} bytes together, got {size}")
    return Score(_finite(score.value), score.parts, score.note)


def component(reward: RewardConfig, outcome: Score | Failure | None, seconds: float) -> Component:
    """One source's outcome on one response, with its weight."""
    if isinstance(outcome, Failure):
        return Component(reward.source, reward.weight, None, failure=outcome, seconds=seconds)
    if outcome is None:
        return Component(reward.source, reward.weight, None, seconds=seconds)
    return Component(reward.source, reward.weight, outcome.value, outcome.parts, outcome.note, seconds=seconds)


def total(components: Sequence[Component]) -> float | None:
    """The reward of a response: sum of weight * value.

    A value of None without a failure (not applicable) contributes 0. A failed component abstains the whole response
    (None).

    Raises:
        ScoringError: the sum of finite values is not finite.
    """
    if any(part.failure is not None for part in components):
        return None
    reward = sum(part.weight * part.value for part in components if part.value is not None)
    if not math.isfinite(reward):
        terms = ", ".join(f"{part.source} = {part.weight} * {part.value}" for part in components)
        raise ScoringError(f"the total reward is not finite: {terms}. Bound the values or the weights.")
    return float(reward)


def _finite(value: object) -> float:
    if not isinstance(value, Real):
        raise InvalidScoreError(f"a score must be a number, None or Score, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise InvalidScoreError(f"a score must be finite: {error}") from error
    if not math.isfinite(number):
        raise InvalidScoreError(f"a score must be finite, got {number}")
    return number


def _check_depth(value: object, levels: int) -> None:
    if levels == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            _check_depth(each, levels - 1)


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:200]
