"""The events of a run as plain text: what a pipe and `log.txt` get."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from reasoner.evaluation.metrics import Evaluation, is_held_out, task_of
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.format import duration, interval, number
from reasoner.monitoring.metrics import by_task, find, headline, sources

STAGES = {
    "sample": "sampling",
    "score_wait": "scores",
    "update": "update",
    "handover": "hand-over",
    "check": "check",
    "checkpoint": "saving",
}
"""stages of a step in short: their names on one line"""
RECENT = 5
"""steps whose mean time predicts the rest"""


def facts(chosen: Mapping[str, str]) -> str:
    """What was chosen, one aligned line each."""
    width = max(map(len, chosen), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in chosen.items())


def step(number_: int, total: int, history: Sequence[Mapping[str, float]]) -> str:
    """One line per step: the rewards, the lengths, what may go wrong, speed and time left."""
    metrics = history[-1]
    names = [*headline(metrics), "tools/calls", "tools/malformed", "tools/failed"]
    names += ["response/finished", "response/length_mean", "response/entropy", "groups/no_credit", "gap/mean"]
    names += ["tokens_per_s/sample"]
    parts = [f"{label(name)} {number(metrics[name], find(name).unit)}" for name in names if name in metrics]
    if "time/total" in metrics:
        parts.append(f"took {duration(metrics['time/total'])}")
    left = time_left(history, total - number_)
    parts += [] if left is None else [f"left about {duration(left)}"]
    return f"step {number_:>{len(str(total))}}/{total}  " + ", ".join(parts + alerts(metrics))


def whereabouts(metrics: Mapping[str, float]) -> str:
    """Where the time of a step went, and who was idle: `sampling 62%, update 31%; idle: sampler 38%, learner 67%`;
    empty where that was not measured."""
    total = metrics.get("time/total", 0.0)
    if not total:
        return ""
    shares = {name: metrics.get(f"time/{stage}", 0.0) / total for stage, name in STAGES.items()}
    went = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items() if share >= 0.005)
    idle = ", ".join(
        f"{who} {number(metrics[f'idle/{who}'], 'share')}" for who in ("sampler", "learner") if f"idle/{who}" in metrics
    )
    return f"{went}; idle: {idle}" if went and idle else went


def new(warnings: Sequence[Warned], step_: int) -> list[Warned]:
    """Those that began with this step."""
    return [warned for warned in warnings if warned.step == step_]


def warning(warned: Warned) -> str:
    """What is seen and what to try."""
    return f"WARNING at step {warned.step}: {warned.what}.\n  {warned.advice}."


def alerts(metrics: Mapping[str, float]) -> list[str]:
    """What should not happen, and did."""
    failed = {name: share for name, share in metrics.items() if share and name.endswith("/failed")}
    lines_ = [
        f"{_of(task, source)} FAILED in {number(own[f'reward/{source}/failed'], 'share')} of its calls"
        for task, own in by_task(failed).items()
        for source in sources(own)
    ]
    if metrics.get("reward/abstained", 0.0):
        lines_.append(f"{number(metrics['reward/abstained'], 'share')} of the responses ABSTAINED")
    if metrics.get("update/not_finite") or metrics.get("critic/not_finite"):
        lines_.append("loss or gradient NOT FINITE, update skipped")
    elif metrics.get("update/applied", 1.0) < 1.0:
        lines_.append("update NOT APPLIED")
    return lines_


def evaluation(when: str, result: Evaluation) -> str:
    """The figures of an evaluation with their intervals on a few lines."""
    measured = size(result)
    lines = [f"evaluation {when}: {measured}" if measured else f"evaluation {when}"]
    lines += [f"  {figure(e.name):<20} {interval(e.value, e.low, e.high, e.unit)}" for e in result.estimates]
    for name, task in result.tasks.items():
        lines.append(f"  {name}: {size(task)}")
        lines += [f"    {figure(e.name):<20} {interval(e.value, e.low, e.high, e.unit)}" for e in task.estimates]
    return "\n".join(lines)


def size(result: Evaluation) -> str:
    """How much an evaluation measured, and how many problems have a verdict where not all do."""
    rows = f"{result.rows} held-out row{'s' if result.rows > 1 else ''}" if result.rows else ""
    if not result.samples:
        return rows
    samples = "1 response each" if result.samples == 1 else f"{result.samples} responses each"
    judged = f" ({result.judged} of them judged)" if result.judged < result.problems else ""
    abstained = f", {result.abstained} abstained" if result.abstained else ""
    return f"{result.problems} problems{judged}, {samples}{abstained}{f'; {rows}' if rows else ''}"


def figure(name: str) -> str:
    """A figure of an evaluation as one reads it: `avg@4`, `math`, `held-out dpo loss`, `code-stdin: avg@1`."""
    task, name = task_of(name)
    if task:
        return _of(task, figure(name))
    return f"held-out {label(name)}" if is_held_out(name) else name.removeprefix("reward/")


def label(name: str) -> str:
    """A metric's name as one reads it."""
    task, name = task_of(name)
    if task:
        return _of(task, label(name))
    short = {
        "reward/mean": "reward",
        "tools/calls": "calls",
        "tools/malformed": "malformed calls",
        "tools/failed": "failed results",
        "response/finished": "finished",
        "response/length_mean": "length",
        "response/entropy": "entropy",
        "groups/no_credit": "no-credit groups",
        "gap/mean": "gap",
        "tokens_per_s/sample": "speed",
        "memory/rss_gib": "memory",
        "memory/device_gib": "GPU memory",
    }
    if name.startswith("term/"):
        return name.removeprefix("term/").replace("/", " ")
    return short.get(name) or name.removeprefix("reward/").removesuffix("/mean")


def _of(task: str, name: str) -> str:
    return f"{task}: {name}" if task else name


def time_left(history: Sequence[Mapping[str, float]], steps: int) -> float | None:
    """Seconds that the remaining steps will take if they are like the last ones; None: not known, or none remains."""
    times = [m["time/total"] for m in history[-RECENT:] if math.isfinite(m.get("time/total", math.nan))]
    return steps * fmean(times) if times and steps > 0 else None
