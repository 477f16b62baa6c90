"""Metrics of a step from its scored groups, and readings of memory (`reasoner.monitoring.metrics` documents the
names)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, pstdev
from types import MappingProxyType

import numpy as np
import psutil

from reasoner.monitoring.timer import StepTimeline
from reasoner.plugins.reward_api import TEXT_ONLY
from reasoner.records import Component, Response, ScoredGroup

Conditions = Mapping[str, str]
"""reward source -> the one that it is `when`; others are always called"""
ONE_TASK: Mapping[str, Conditions] = MappingProxyType({"": MappingProxyType({})})
"""a single task whose sources are always called"""


def rollout_metrics(groups: Sequence[ScoredGroup], conditions: Mapping[str, Conditions] = ONE_TASK) -> dict[str, float]:
    """Rewards, components, lengths and what gives no credit, over all responses that were sampled for a step; with
    several tasks also of each (`task/<task>/...`), and components of each alone: those of one task are never counted
    with those of another.

    Args:
        conditions: of the sources of each task.
    """
    if len(conditions) == 1:
        (only,) = conditions.values()
        return _group_metrics(groups) | _component_metrics(_rows(groups), only)
    values = _group_metrics(groups)
    for name, of_task in conditions.items():
        own = [scored for scored in groups if scored.group.problem.part == name]
        values[f"task/{name}/share"] = len(own) / len(groups)
        figures = _group_metrics(own) | _component_metrics(_rows(own), of_task) if own else {}
        values |= {f"task/{name}/{key}": value for key, value in figures.items()}
    return values


def staleness_metrics(responses: Sequence[Response], version: int) -> dict[str, float]:
    """How far behind the learner the weights were that wrote the responses, which are trained on.

    Args:
        version: of the learner's weights before the update.
    """
    ages: Counter[int] = Counter()
    for response in responses:
        starts = [(0, response.policy_version), *response.version_changes, (len(response.token_ids), version)]
        for (first, of_span), (end, _) in pairwise(starts):
            ages[version - of_span] += sum(response.policy_mask[first:end])
    written = {age: tokens for age, tokens in ages.items() if tokens}
    return {
        "response/staleness": fmean(version - response.policy_version for response in responses),
        "response/weights_changed": fmean(bool(response.version_changes) for response in responses),
        "response/versions": fmean(1 + len(response.version_changes) for response in responses),
        "tokens/staleness_mean": sum(age * n for age, n in written.items()) / max(1, sum(written.values())),
        "tokens/staleness_max": float(max(written, default=0)),
    }


def carried_metrics(responses: Sequence[Response]) -> dict[str, float]:
    """How much of the responses that are trained on was written at earlier steps."""
    written = sum(sum(response.policy_mask) for response in responses)
    carried = sum(sum(response.policy_mask[: response.carried_tokens]) for response in responses)
    return {
        "response/carried": fmean(response.carried_tokens > 0 for response in responses),
        "response/continued": fmean(0 < response.carried_tokens < len(response.token_ids) for response in responses),
        "tokens/carried": carried / max(1, written),
        "tokens/discarded": float(sum(response.discarded_tokens for response in responses)),
    }


def _rows(groups: Sequence[ScoredGroup]) -> list[tuple[Component, ...]]:
    """The components of the responses that sources were called for."""
    return [
        row
        for scored in groups
        for row, response in zip(scored.components, scored.group.responses, strict=True)
        if response.failure is None
    ]


def _group_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    rewards = [reward for scored in groups for reward in scored.rewards]
    valid = [reward for reward in rewards if reward is not None]
    responses = [response for scored in groups for response in scored.group.responses]
    lengths = [response.policy_mask.count(True) for response in responses]
    values = {
        "reward/abstained": 1 - len(valid) / len(rewards),
        "groups/no_credit": fmean(not scored.informative for scored in groups),
        "response/length_mean": fmean(lengths),
        "response/finished": fmean(response.finish_reason == "stop" for response in responses),
        "response/entropy": _sampled_entropy(responses),
        "tokens/sampled": float(sum(lengths)),
    }
    if valid:
        values |= {"reward/mean": fmean(valid), "reward/std": pstdev(valid)}
    return values | _turn_metrics(responses)


def _turn_metrics(responses: Sequence[Response]) -> dict[str, float]:
    """Of responses with tools or an environment; none without."""
    responses = [response for response in responses if response.report is not None]
    if not responses:
        return {}
    turns = [turn for response in responses for turn in response.turns]
    calls = [call for turn in turns for call in turn.calls]
    results = [turn for turn in turns if turn.role == "tool"]
    values = {
        "turns/mean": sum(turn.role == "assistant" for turn in turns) / len(responses),
        "turns/observed_mean": fmean(response.policy_mask.count(False) for response in responses),
        "tools/calls": len(calls) / len(responses),
        "tools/seconds": sum(turn.seconds for turn in results) / len(responses),
        "environment/failed": fmean(response.failure is not None for response in responses),
    }
    if calls:
        values["tools/malformed"] = fmean(bool(call.error) for call in calls)
    if results:
        values["tools/failed"] = fmean(bool(turn.error) for turn in results)
    return values


def _sampled_entropy(responses: Sequence[Response]) -> float:
    """Mean of -log p over the tokens that the policy drew: H = E[-log p], so an estimate of the entropy per token."""
    written = [np.asarray(each.sampler_logprobs)[np.asarray(each.policy_mask)] for each in responses]
    logprob_S = np.concatenate(written)
    return -math.fsum(logprob_S.tolist()) / len(logprob_S) if len(logprob_S) else 0.0


def called_components(rows: Sequence[Sequence[Component]], conditions: Conditions) -> dict[str, list[Component]]:
    """By source, its components of the responses that it was called for: all, or those that meet its condition."""
    by_source: dict[str, list[Component]] = {}
    for row in rows:
        values = {component.source: component.value for component in row}
        for component in row:
            of_source = by_source.setdefault(component.source, [])
            condition = conditions.get(component.source)
            if condition is None or (values.get(condition) or 0.0) > 0.0:
                of_source.append(component)
    return by_source


def _component_metrics(rows: Sequence[Sequence[Component]], conditions: Conditions) -> dict[str, float]:
    by_source: dict[str, list[Component]] = {}
    for component in (component for row in rows for component in row):
        by_source.setdefault(component.source, []).append(component)
    called = called_components(rows, conditions)
    values: dict[str, float] = {}
    for source, components in by_source.items():
        name = f"reward/{source}"
        known = [component.value for component in components if component.value is not None]
        if known:
            values |= {f"{name}/mean": fmean(known), f"{name}/std": pstdev(known)}
        if any(component.weight for component in components):  # gates have none
            values[f"{name}/weighted_mean"] = fmean(part.weight * (part.value or 0.0) for part in components)
        if any("reads" in component.parts for component in components):
            values[f"{name}/text_only"] = fmean(component.parts.get("reads") == TEXT_ONLY for component in components)
        if source in conditions:
            values[f"{name}/asked"] = len(called[source]) / len(components)
        if called[source]:
            values[f"{name}/not_applicable"] = fmean(
                component.value is None and component.failure is None for component in called[source]
            )
        values[f"{name}/failed"] = fmean(component.failure is not None for component in components)
        values[f"{name}/seconds"] = fmean(component.seconds for component in components)
    return values


def idle_metrics(timeline: StepTimeline, sampling: bool) -> dict[str, float]:
    """The share of a step in which sampler and learner did nothing.

    Args:
        sampling: whether the run samples for its updates.
    """
    idle = {"idle/learner": 1.0 - timeline.busy("learner")}
    return idle | ({"idle/sampler": 1.0 - timeline.busy("sampler")} if sampling else {})


def memory_metrics(device: str) -> dict[str, float]:
    """Memory of this process and everything it started now, and the most that torch held of the GPU since the last
    call, used or not: other processes, a sampler among them, do not get what it holds. In GiB."""
    resident = 0
    process = psutil.Process()
    for running in (process, *process.children(recursive=True)):
        try:
            resident += running.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # a worker that ended just now
    values = {"memory/rss_gib": resident / 2**30}
    if device == "cuda":
        import torch

        values["memory/device_gib"] = torch.cuda.max_memory_reserved() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return values


def seconds_since_start() -> float:
    """Seconds since this process was started, imports included."""
    return time.time() - psutil.Process().create_time()
