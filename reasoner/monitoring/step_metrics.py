"""What a step's groups say, as figures (`reasoner.monitoring.metrics` documents the names). Pure, but for the memory
readings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, pstdev
from types import MappingProxyType
from typing import TypeVar

import psutil

from reasoner.plugins.reward_api import TEXT_ONLY
from reasoner.records import Component, Response, ScoredGroup

T = TypeVar("T")


class Timer:
    """Seconds by stage of one step."""

    def __init__(self) -> None:
        self._started = self._ended = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time inside to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    def iterate(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items; until the last one has come, time is `stage`'s (what the consumer does in between happens
        meanwhile)."""
        with self(stage):
            yield from items
        self._ended = time.perf_counter()

    def rest(self, stage: str) -> None:
        """Add the time since `iterate` ran out of items to `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - self._ended

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add what another timer measured, by stage."""
        for stage, more in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + more

    @property
    def metrics(self) -> dict[str, float]:
        """`time/<stage>` and `time/total`, seconds."""
        stages = {f"time/{stage}": seconds for stage, seconds in self.seconds.items()}
        return {**stages, "time/total": time.perf_counter() - self._started}


Conditions = Mapping[str, str]
"""reward source -> the one that it is `when`; others are always called"""


def rollout_metrics(groups: Sequence[ScoredGroup], conditions: Conditions = MappingProxyType({})) -> dict[str, float]:
    """Rewards, components, lengths and what gives no credit, over all responses that were sampled for a step."""
    rewards = [reward for scored in groups for reward in scored.rewards]
    valid = [reward for reward in rewards if reward is not None]
    responses = [response for scored in groups for response in scored.group.responses]
    values = {
        "reward/abstained": 1 - len(valid) / len(rewards),
        "groups/no_credit": fmean(not scored.informative for scored in groups),
        "response/length_mean": fmean(len(response.token_ids) for response in responses),
        "response/finished": fmean(response.finish_reason == "stop" for response in responses),
        "response/entropy": _sampled_entropy(responses),
        "tokens/sampled": float(sum(len(response.token_ids) for response in responses)),
    }
    if valid:
        values |= {"reward/mean": fmean(valid), "reward/std": pstdev(valid)}
    return values | _component_metrics([row for scored in groups for row in scored.components], conditions)


def _sampled_entropy(responses: Sequence[Response]) -> float:
    """Mean of -log p over the tokens that the policy drew: H = E[-log p], so an estimate of the entropy per token."""
    drawn = [
        logprob
        for response in responses
        for logprob, written in zip(response.sampler_logprobs, response.policy_mask, strict=True)
        if written
    ]
    return -fmean(drawn) if drawn else 0.0


def asked(rows: Sequence[Sequence[Component]], conditions: Conditions) -> dict[str, list[Component]]:
    """By source its components of the responses that it was called for: all, or those that its condition is met by."""
    found: dict[str, list[Component]] = {}
    for row in rows:
        values = {component.source: component.value for component in row}
        for component in row:
            of_source = found.setdefault(component.source, [])
            condition = conditions.get(component.source)
            if condition is None or (values.get(condition) or 0.0) > 0.0:
                of_source.append(component)
    return found


def _component_metrics(rows: Sequence[Sequence[Component]], conditions: Conditions) -> dict[str, float]:
    by_source: dict[str, list[Component]] = {}
    for component in (component for row in rows for component in row):
        by_source.setdefault(component.source, []).append(component)
    called = asked(rows, conditions)
    values: dict[str, float] = {}
    for source, found in by_source.items():
        name = f"reward/{source}"
        known = [component.value for component in found if component.value is not None]
        if known:
            values |= {f"{name}/mean": fmean(known), f"{name}/std": pstdev(known)}
        if any(component.weight for component in found):  # gates have none
            values[f"{name}/weighted_mean"] = fmean(component.weight * (component.value or 0.0) for component in found)
        if any("reads" in component.parts for component in found):
            values[f"{name}/text_only"] = fmean(component.parts.get("reads") == TEXT_ONLY for component in found)
        if source in conditions:
            values[f"{name}/asked"] = len(called[source]) / len(found)
        if called[source]:
            values[f"{name}/not_applicable"] = fmean(
                each.value is None and each.failure is None for each in called[source]
            )
        values[f"{name}/failed"] = fmean(component.failure is not None for component in found)
        values[f"{name}/seconds"] = fmean(component.seconds for component in found)
    return values


def memory_metrics(device: str) -> dict[str, float]:
    """Memory of this process and everything it started, and the peak on the GPU, in GiB."""
    resident = 0
    process = psutil.Process()
    for each in (process, *process.children(recursive=True)):
        try:
            resident += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # a worker that ended just now
    values = {"memory/rss_gib": resident / 2**30}
    if device == "cuda":
        import torch

        values["memory/device_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return values


def seconds_since_start() -> float:
    """Seconds since this process was started, imports included."""
    return time.time() - psutil.Process().create_time()
