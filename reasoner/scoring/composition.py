"""From what a reward source returned to the reward of a response. Pure.

    reward = sum_k weight_k * value_k        over the sources that are no gates
    reward = min(reward, 0)                  where the value of a gate is 0 or below

A component without a value (not applicable) contributes 0. One that failed does what its `on_failure` says: the
response abstains (None), the value is 0, the whole group abstains, or the run stops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from reasoner.config import RewardConfig, mistake_of_conditions
from reasoner.errors import ConfigError, ScoringError, nearest
from reasoner.io.redaction import redact_start
from reasoner.plugins.reward_api import RewardSource
from reasoner.records import Component, Failure, Score
from reasoner.workers.calls import MAX_MESSAGE
from reasoner.workers.json_values import json_values


class InvalidScoreError(ValueError):
    """A reward source returned something that is not a finite score."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One response of a group or batch that failed beside others that did not."""

    kind: Literal["error", "invalid"]
    message: str


def check_rewards(rewards: Sequence[RewardConfig], sources: Mapping[str, RewardSource]) -> None:
    """Refuse reward sources that are not registered, options that they do not have, and conditions on none.

    Raises:
        ConfigError: with the key, the value and the nearest valid name.
    """
    for index, reward in enumerate(rewards):
        try:
            source = sources[reward.source]
        except KeyError:
            raise ConfigError(
                f"rewards[{index}].source: there is no reward source {reward.source!r}."
                f"{nearest(reward.source, sources)} Registered: {', '.join(sorted(sources)) or 'none'}. "
                "One of your own comes with its plugin: --plugin FILE.py, or an installed distribution."
            ) from None
        try:
            source.check_options(reward.options)
        except ConfigError as error:
            raise ConfigError(f"rewards[{index}].options: {error}") from error
    if mistake := mistake_of_conditions(rewards):
        raise ConfigError(mistake)


def verdicts(returned: object, responses: int) -> list[Score | Refused | None]:
    """What a source of groups or batches returned, one score per response; what is no score fails alone.

    Raises:
        InvalidScoreError: not a sequence, or not as many as responses.
    """
    if not isinstance(returned, Iterable) or isinstance(returned, (str, bytes, Mapping, Set)):
        raise InvalidScoreError(f"a sequence of scores is needed, one per response, got {_format_value(returned)}")
    several = list(returned)
    if len(several) != responses:
        raise InvalidScoreError(f"one score per response is needed: got {len(several)} for {responses} responses")
    return [_verdict_or_refused(value) for value in several]


def _verdict_or_refused(returned: object) -> Score | Refused | None:
    if isinstance(returned, Exception):
        return Refused("error", f"{type(returned).__name__}: {redact_start(str(returned), MAX_MESSAGE)}")
    try:
        return verdict(returned)
    except InvalidScoreError as error:
        return Refused("invalid", redact_start(str(error), MAX_MESSAGE))


def verdict(returned: object) -> Score | None:
    """What a source returned as a score that can be stored, or None for "not applicable".

    Values of secret environment variables are hidden in parts and note: a service may repeat the key that it was sent.

    Raises:
        InvalidScoreError: not a number, not finite, or with parts that JSON cannot hold.
    """
    if returned is None:
        return None
    score = returned if isinstance(returned, Score) else Score(_finite(returned))
    if not isinstance(score.note, str):
        raise InvalidScoreError(f"Score.note must be text, got {_format_value(score.note)}")
    try:
        kept: list[Any] = json_values([dict(score.parts), score.note], "parts and note of a score")
    except (TypeError, ValueError) as error:
        raise InvalidScoreError(str(error)) from error
    return Score(_finite(score.value), *kept)


def component(reward: RewardConfig, outcome: Score | Failure | None, seconds: float) -> Component:
    """One source's outcome on one response, with its weight; a gate is not summed and has weight 0."""
    weight = 0.0 if reward.gate else reward.weight
    if isinstance(outcome, Failure):
        return Component(reward.source, weight, None, failure=outcome, seconds=seconds)
    if outcome is None:
        return Component(reward.source, weight, None, seconds=seconds)
    return Component(reward.source, weight, outcome.value, outcome.parts, outcome.note, seconds=seconds)


def total(rewards: Sequence[RewardConfig], components: Sequence[Component]) -> float | None:
    """The reward of a response whose components are in the order of the rewards; None: it abstains.

    Raises:
        ScoringError: the sum of finite values is not finite.
    """
    pairs = list(zip(rewards, components, strict=True))
    if any(part.failure is not None and reward.on_failure != "zero" for reward, part in pairs):
        return None
    summed = sum(part.weight * part.value for reward, part in pairs if part.value is not None and not reward.gate)
    if not math.isfinite(summed):
        terms = ", ".join(f"{part.source} = {part.weight} * {part.value}" for part in components)
        raise ScoringError(f"the total reward is not finite: {terms}. Bound the values or the weights.")
    shut = any(reward.gate and _shuts(part) for reward, part in pairs)
    return float(min(summed, 0.0) if shut else summed)


def totals(rewards: Sequence[RewardConfig], rows: Sequence[Sequence[Component]]) -> tuple[float | None, ...]:
    """The rewards of a group; all of them abstain when a source failed whose policy is `drop-group`.

    Raises:
        ScoringError: as `total`.
    """
    for row in rows:
        for reward, part in zip(rewards, row, strict=True):
            if part.failure is not None and reward.on_failure == "drop-group":
                return (None,) * len(rows)
    return tuple(total(rewards, row) for row in rows)


def _shuts(part: Component) -> bool:
    """Whether a gate is shut. One that does not apply is open; one that failed (`on_failure = "zero"`) has value 0."""
    return part.failure is not None or (part.value is not None and part.value <= 0.0)


def _finite(value: object) -> float:
    if not isinstance(value, Real):
        raise InvalidScoreError(f"a score must be a number, None or Score, got {_format_value(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise InvalidScoreError(f"a score must be finite: {error}") from error
    if not math.isfinite(number):
        raise InvalidScoreError(f"a score must be finite, got {number}")
    return number


def _format_value(value: object) -> str:
    return redact_start(f"{type(value).__name__} {value!r}", 200)
