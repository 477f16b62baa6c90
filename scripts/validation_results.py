"""What the validations of the methods measure: lines of a file, a table and a plot."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
from scipy.stats import t as student


@dataclass(frozen=True, slots=True)
class Training:
    """One method with one seed: a line of the results."""

    preset: str
    seed: int
    steps: int
    setting: str
    """hash of the task and what belongs to it: the results of two settings are never in one table"""
    before: float
    """share of right answers on held-out problems"""
    after: float
    rewards: tuple[float, ...]
    """mean reward of every step; empty without fresh responses"""
    seconds: float


def fingerprint(values: Sequence[Any]) -> str:
    """A hash of what results depend on: of settings and of the problems themselves, not of the text of the code."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def read(file: Path) -> list[Training]:
    """The results so far."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Training(**{**row, "rewards": tuple(row["rewards"])}) for row in rows]


def add(file: Path, training: Training) -> None:
    """One more line of results."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(training)) + "\n")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval over seeds (Student's t)."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def by_method(done: Sequence[Training], methods: Sequence[str]) -> Iterator[tuple[str, list[Training]]]:
    """The trainings of each method that has some, in the order of `methods`."""
    for name in methods:
        some = [item for item in done if item.preset == name]
        if some:
            yield name, some


def write_table(file: Path, done: Sequence[Training], methods: Sequence[str], budget: str) -> None:
    """Share of right answers before and after, with intervals over seeds, and which methods are missing.

    Args:
        budget: of every training, in words.
    """
    seeds = len({item.seed for item in done})
    lines = [
        f"<!-- written by scripts/validate_gro: {budget}, {seeds} seed{'' if seeds == 1 else 's'} -->",
        "| method | right before | right after | change [95% interval] | learns |",
        "|---|---:|---:|---:|---|",
    ]
    for name, some in by_method(done, methods):
        before, after = (fmean(values) for values in ([e.before for e in some], [e.after for e in some]))
        change, low, high = interval([item.after - item.before for item in some])
        verdict = "one seed" if math.isnan(low) else "yes" if low > 0 else "no" if high < 0 else "within noise"
        bounds = "" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        shares = f"{100 * before:.1f}% | {100 * after:.1f}%"
        lines.append(f"| `{name}` | {shares} | {100 * change:+.1f}{bounds} | {verdict} |")
    trained = {each.preset for each in done}
    if missing := [f"`{name}`" for name in methods if name not in trained]:
        lines += ["", f"Not trained yet: {', '.join(missing)}."]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_plot(file: Path, done: Sequence[Training], methods: Sequence[str]) -> None:
    """Right answers after training per method with intervals, and reward over the steps; nothing without a training."""
    if not done:
        return
    plt.rcParams.update({"svg.hashsalt": "reasoner", "font.size": 8})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6.5), width_ratios=(1.1, 1))
    rows = [(name, interval([item.after for item in some]), some) for name, some in by_method(done, methods)]
    for place, (_, (mean, low, high), _) in enumerate(rows):
        spread = None if math.isnan(low) else [[100 * (mean - low)], [100 * (high - mean)]]
        left.errorbar(100 * mean, place, xerr=spread, fmt="o", color="C0")
    left.axvline(100 * fmean(item.before for item in done), color="grey", linestyle="--", label="before training")
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.invert_yaxis()
    left.set_xlabel("right answers on held-out problems, % (mean over seeds, 95% interval)")
    left.legend(loc="lower left")
    for index, (name, _, some) in enumerate(rows):
        curves = [item.rewards for item in some if item.rewards]
        if curves:
            right.plot(*smoothed(curves), label=name, color=plt.get_cmap("turbo")(index / max(1, len(rows) - 1)))
    right.set_xlabel("training step")
    right.set_ylabel("mean reward (mean over seeds and 5 steps)")
    right.legend(ncols=2, fontsize=6)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def smoothed(curves: Sequence[Sequence[float]], width: int = 5) -> tuple[list[int], list[float]]:
    """Steps, and the mean over curves and the last `width` steps."""
    means = [fmean(values) for values in zip(*curves, strict=True)]
    return list(range(1, len(means) + 1)), [
        fmean(means[max(0, index - width + 1) : index + 1]) for index in range(len(means))
    ]
