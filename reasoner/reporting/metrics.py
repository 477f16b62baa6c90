"""The metrics of a step: every name that may appear in `metrics.jsonl`, with its unit and meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from reasoner.errors import nearest

Unit = Literal["reward", "share", "tokens", "tokens/s", "s", "GiB", "nats", "count", "number"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure per step. `<source>` in a name stands for a reward source."""

    name: str
    unit: Unit
    meaning: str


# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("reward/mean", "reward", "total reward over responses, the abstained left out"),
    Metric("reward/std", "reward", "standard deviation of the total reward over responses"),
    Metric("reward/<source>/mean", "reward", "value of one source before weighting, where it applied"),
    Metric("reward/<source>/failed", "share", "calls of the source that failed"),
    Metric("reward/abstained", "share", "responses without a reward because a source failed"),
    Metric("groups/no_credit", "share", "groups with fewer than two different rewards: nothing to compare"),
    Metric("response/length_mean", "tokens", "response length"),
    Metric("response/finished", "share", "responses that ended by themselves, not at the length limit"),
    Metric("credit/abs_mean", "reward", "size of the credit over responses"),
    Metric("weight/positive", "number", "mass of the weights that push responses up"),
    Metric("weight/negative", "number", "mass of the weights that push responses down"),
    Metric("weight/zero_share", "share", "response tokens with weight 0"),
    Metric("weight/clipped_share", "share", "response tokens whose weight the clip set to 0"),
    Metric("weight/ess", "number", "effective sample size: (sum of |w|)^2 / sum of w^2 over responses"),
    Metric("update/loss", "number", "- sum of w * log-probability, as the learner saw it"),
    Metric("update/grad_norm", "number", "gradient norm before clipping"),
    Metric("update/learning_rate", "number", "learning rate of the last optimiser step"),
    Metric("update/applied", "share", "optimiser steps applied; below 1: no weights, or a gradient not finite"),
    Metric("update/responses_skipped", "count", "responses without weight, which cost no forward"),
    Metric("update/tokens", "tokens", "tokens that went through the model, shared prompts counted once"),
    Metric("gap/mean", "nats", "mean |log-probability of the learner - of the sampler| per token"),
    Metric("gap/max", "nats", "largest such difference"),
    Metric("gap/k3", "nats", "k3 estimate of the KL divergence between sampler and learner"),
    Metric("kl/reference", "nats", "KL to the reference policy per token, by the configured estimator"),
    Metric("time/sample", "s", "sampling"),
    Metric("time/score_wait", "s", "waiting for rewards after the last response; the rest hides behind sampling"),
    Metric("time/update", "s", "annotating, credit and update"),
    Metric("time/handover", "s", "writing the weights and loading them into the sampler"),
    Metric("time/check", "s", "comparing the sampler's log-probabilities with the learner's"),
    Metric("time/total", "s", "the whole step"),
    Metric("tokens/sampled", "tokens", "response tokens sampled"),
    Metric("tokens_per_s/sample", "tokens/s", "sampled tokens / sampling time"),
    Metric("memory/rss_gib", "GiB", "resident memory of the process and its children"),
    Metric("memory/device_gib", "GiB", "peak memory of the GPU that the learner allocated"),
)
# fmt: on

_SOURCE = re.compile(r"reward/(?P<source>.+)/(?P<kind>mean|failed)")
_BY_NAME = {metric.name: metric for metric in METRICS}


def find(name: str) -> Metric:
    """The table's row of a metric.

    Raises:
        KeyError: no such metric; names that are made up on the way would be in no documentation and no report.
    """
    pattern = _SOURCE.fullmatch(name)
    row = _BY_NAME.get(f"reward/<source>/{pattern['kind']}" if pattern else name)
    if row is None:
        raise KeyError(f"there is no metric {name!r} in reasoner.reporting.metrics.{nearest(name, _BY_NAME)}")
    return row


def sources(names: Iterable[str]) -> list[str]:
    """The reward sources that have metrics, in order."""
    matches = (_SOURCE.fullmatch(name) for name in names)
    return list(dict.fromkeys(match["source"] for match in matches if match))
