"""The metrics of a step: every name that may appear in `metrics.jsonl`, with its unit and meaning.

The figures of rewards, responses and sampled groups are over everything that was sampled for the step, also where
dynamic sampling dropped it (`sampling.refills`); credit, terms, updates, the gap and the staleness are of what was
trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from reasoner.errors import nearest
from reasoner.evaluation.metrics import task_of

MetricUnit = Literal["reward", "share", "tokens", "tokens/s", "s", "GiB", "nats", "count", "number"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure per step. In a name, `<source>` stands for a reward source, `<term>` for a term of `[gro]` and
    `<task>` for a part of a mixture."""

    name: str
    unit: MetricUnit
    meaning: str


# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("reward/mean", "reward", "total reward over responses, the abstained left out"),
    Metric("reward/std", "reward", "standard deviation of the total reward over responses"),
    Metric("reward/<source>/mean", "reward", "value of one source before weighting, where it applied"),
    Metric("reward/<source>/std", "reward", "standard deviation of that value"),
    Metric("reward/<source>/weighted_mean", "reward", "weight * value over all responses, 0 where it has none; not of "
           "gates and weight 0"),
    Metric("reward/<source>/asked", "share", "responses that the source was called for; of sources with a condition "
           "(`when`)"),
    Metric("reward/<source>/not_applicable", "share", "responses that the source has nothing to say about (it returned "
           "None), of those that it was called for"),
    Metric("reward/<source>/text_only", "share", "responses to problems whose reference the source only compares as "
           "text; of sources that say so (`math`)"),
    Metric("reward/<source>/failed", "share", "responses whose call of the source failed"),
    Metric("reward/<source>/seconds", "s", "time in the source per response"),
    Metric("reward/abstained", "share", "responses without a reward because a source or their environment failed"),
    Metric("groups/no_credit", "share", "groups with fewer than two different rewards: nothing to compare"),
    Metric("response/length_mean", "tokens", "response length: the tokens that the policy wrote"),
    Metric("response/finished", "share", "responses that ended on their own, not at the limit of tokens or turns"),
    Metric("turns/mean", "number", "turns of the policy per response; of tasks with `[environment]`, as the next six"),
    Metric("turns/observed_mean", "tokens", "tokens per response that the policy read between its turns: results of "
        "tools and messages of the environment"),
    Metric("tools/calls", "number", "tool calls per response"),
    Metric("tools/malformed", "share", "tool calls that could not be made: unreadable, to no tool, or with arguments "
        "that do not fit"),
    Metric("tools/failed", "share", "results of tools that are errors: the tool raised, took too long, or its worker "
        "died"),
    Metric("tools/seconds", "s", "time in tools per response"),
    Metric("environment/failed", "share", "responses whose environment failed, so that they abstained"),
    Metric("response/staleness", "count", "optimiser steps between sampling a response that is trained on and its "
        "first update, of its oldest token (sampling.max_staleness)"),
    Metric("response/weights_changed", "share", "responses during which the sampler's weights changed "
        "(sampling.max_staleness)"),
    Metric("response/versions", "count", "versions of the weights that wrote a response, mean "
        "(sampling.max_staleness)"),
    Metric("tokens/staleness_mean", "count", "optimiser steps between the weights that wrote a token and those that "
        "learn from it first (sampling.max_staleness)"),
    Metric("tokens/staleness_max", "count", "the same of the oldest token"),
    Metric("response/carried", "share", "responses of which an earlier step wrote some or all tokens "
        "(sampling.over_sample)"),
    Metric("response/continued", "share", "responses that were interrupted at an earlier step and continued at this "
        "one (sampling.over_sample)"),
    Metric("tokens/carried", "share", "tokens of the step's responses that earlier steps wrote (sampling.over_sample)"),
    Metric("tokens/discarded", "tokens", "tokens of interrupted responses that began anew instead: too old, or their "
        "environment did not come back to the same state (sampling.over_sample)"),
    Metric("response/entropy", "nats", "mean -log-probability of the sampled tokens: an estimate of the policy's "
        "entropy per token when sampling"),
    Metric("credit/abs_mean", "reward", "size of the credit over the responses that are trained on"),
    Metric("teacher/kl", "nats", "mean log-probability of the policy when the batch arrived - of the teacher, per "
           "token: estimates the reverse KL to the teacher"),
    Metric("term/<term>/weight", "number", "lambda of a term of the objective at this step"),
    Metric("term/<term>/loss", "number", "its loss, without lambda"),
    Metric("term/<term>/positive", "number", "mass of its weights that push responses up"),
    Metric("term/<term>/negative", "number", "mass of its weights that push responses down"),
    Metric("term/<term>/zero_share", "share", "its tokens with weight 0"),
    Metric("term/<term>/clipped_share", "share", "its tokens with credit whose weight the link set to 0"),
    Metric("term/<term>/ess", "number", "effective sample size: (sum of |w|)^2 / sum of w^2 over responses"),
    Metric("term/<term>/ratio_mean", "number", "mean over tokens of e^(log-probability now - when the batch arrived)"),
    Metric("term/<term>/ratio_max", "number", "largest such ratio"),
    Metric("term/<term>/kl", "nats", "KL to the reference policy per token, by the configured estimator"),
    Metric("term/<term>/corrected_share", "share", "tokens whose sampler-to-learner importance weight was cut"),
    Metric("term/<term>/pairs", "count", "preference pairs"),
    Metric("term/<term>/accuracy", "share", "pairs in which the chosen response has more evidence"),
    Metric("term/<term>/margin", "number", "mean difference of evidence of a pair"),
    Metric("update/loss", "number", "- sum of w * log-probability, as the learner saw it"),
    Metric("update/grad_norm", "number", "gradient norm before clipping"),
    Metric("update/learning_rate", "number", "learning rate of the last optimiser step"),
    Metric("update/applied", "share", "optimiser steps applied; below 1: no weights, or a gradient not finite"),
    Metric("update/not_finite", "count", "optimiser steps skipped because the loss or the gradient was not finite"),
    Metric("update/responses_skipped", "count", "responses without weight, which cost no forward"),
    Metric("update/router_balance", "number", "how unevenly routers spread a response over the experts: 1 where all "
           "get as much, their number where one gets all; with learning.router_loss only"),
    Metric("update/rerouted", "share", "layers in which the learner's router would have chosen other experts than the "
           "sampler's did, mean over the policy's tokens; with learning.routing_replay only"),
    Metric("update/tokens", "tokens", "tokens that went through the model, shared prompts counted once"),
    Metric(
        "gap/mean",
        "nats",
        "mean |log-probability of the learner - of the sampler| per token; with sampling.max_staleness the updates "
        "between too",
    ),
    Metric("gap/max", "nats", "largest such difference"),
    Metric("gap/k3", "nats", "k3 estimate of the KL divergence between sampler and learner"),
    Metric("entropy", "nats", "mean entropy per token; with an entropy bonus, or an `entropy_share`, only"),
    Metric("critic/loss", "number", "value loss"),
    Metric("critic/explained_variance", "share", "1 - Var(return - value) / Var(return) over tokens, old values"),
    Metric("critic/grad_norm", "number", "gradient norm of the critic before clipping"),
    Metric("critic/not_finite", "count", "its optimiser steps skipped because its loss or gradient was not finite"),
    Metric("groups/kept", "count", "groups with differences, which the step learns from; with dynamic sampling only"),
    Metric("groups/sampled", "count", "groups that were sampled for the step, dropped ones included; with dynamic "
           "sampling only"),
    Metric("curriculum/tried", "share", "training problems that were tried so far; with a curriculum only"),
    Metric("curriculum/resting", "share", "training problems that rest: their last groups were all right or all wrong"),
    Metric("curriculum/pass_rate", "share", "mean pass rate of the tried problems, recent groups counting more"),
    Metric("time/sample", "s", "sampling; with sampling.max_staleness, waiting for the responses sampled during "
        "updates before"),
    Metric("sample/seconds", "s", "sampling during updates before (sampling.max_staleness); compare with time/sample"),
    Metric("time/score_wait", "s", "waiting for rewards after the last response; the rest hides behind sampling"),
    Metric("score/seconds", "s", "time in all reward sources, summed over their workers; compare with time/score_wait"),
    Metric("time/update", "s", "annotating, credit and update"),
    Metric("time/handover", "s", "writing the weights and loading them into the sampler"),
    Metric("time/check", "s", "comparing the sampler's log-probabilities with the learner's"),
    Metric("time/checkpoint", "s", "writing a checkpoint of the step before; 0 where none was due"),
    Metric("time/total", "s", "the whole step"),
    Metric("idle/sampler", "share", "share of the step in which nothing was being sampled; the report has a timeline"),
    Metric("idle/learner", "share", "share of the step in which the learner neither updated nor checked the sampler"),
    Metric("tokens/sampled", "tokens", "tokens sampled, dropped groups and greedy responses included"),
    Metric("tokens_per_s/sample", "tokens/s", "sampled tokens / sampling time"),
    Metric("task/<task>/share", "share", "groups of the step that are of this part of a mixture. All figures of "
           "rewards, responses, groups and curricula are there for each part, as `task/<task>/<figure>`; those of a "
           "reward source are only there"),
    Metric("memory/rss_gib", "GiB", "resident memory of the process and its children"),
    Metric("memory/device_gib", "GiB", "most memory of the GPU that the learner held during the step, used or not"),
)
# fmt: on

_SOURCE = re.compile(r"reward/(?P<source>.+)/(?P<kind>mean|std|weighted_mean|asked|not_applicable|failed|seconds)")
_TASK_REWARD = re.compile(r"task/[^/]+/reward/mean")
_TERM = re.compile(r"term/(?P<term>.+)/(?P<kind>[a-z_]+)")
_BY_NAME = {metric.name: metric for metric in METRICS}


def find(name: str) -> Metric:
    """The table's row of a metric.

    Raises:
        KeyError: no such metric; names that are made up on the way would be in no documentation and no report.
    """
    task, name = task_of(name)
    if task and name == "share":
        return _BY_NAME["task/<task>/share"]
    pattern = _SOURCE.fullmatch(name)
    term = _TERM.fullmatch(name)
    if pattern:
        name = f"reward/<source>/{pattern['kind']}"
    elif term:
        name = f"term/<term>/{term['kind']}"
    row = _BY_NAME.get(name)
    if row is None:
        raise KeyError(f"there is no metric {name!r} in reasoner.monitoring.metrics.{nearest(name, _BY_NAME)}")
    return row


def headline(names: Iterable[str]) -> list[str]:
    """The metrics that tell whether training works: the rewards; without online groups, how the terms do."""
    there = list(names)
    if "reward/mean" in there:
        tasks = dict.fromkeys(name.removesuffix("/reward/mean") for name in there if _TASK_REWARD.fullmatch(name))
        parts = [f"{task}/reward/mean" for task in tasks]
        return ["reward/mean", *parts, *(f"reward/{source}/mean" for source in sources(there))]
    return [name for name in there if _TERM.fullmatch(name) and name.endswith(("/loss", "/accuracy", "/margin"))]


def by_task(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The metrics of each part of a mixture by their own names; under an empty name those of the whole step."""
    by_part: dict[str, dict[str, float]] = {"": {}}
    for name, value in metrics.items():
        task, own = task_of(name)
        by_part.setdefault(task, {})[own] = value
    return by_part


def sources(names: Iterable[str]) -> list[str]:
    """The reward sources that have metrics, in order."""
    matches = (_SOURCE.fullmatch(name) for name in names)
    return list(dict.fromkeys(match["source"] for match in matches if match))


def terms(names: Iterable[str]) -> list[str]:
    """The terms of the objective that have metrics, in order."""
    matches = (_TERM.fullmatch(name) for name in names)
    return list(dict.fromkeys(match["term"] for match in matches if match))
