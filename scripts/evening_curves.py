#!/usr/bin/env python3
"""Accuracy over the steps of the evening's run and its two counterparts: a table and a plot (docs/laptop-evening.md).

    .venv/bin/python -m scripts.evening_curves RUN RUN-OF-RL RUN-OF-DEMONSTRATIONS

Writes docs/validation/evening.md and evening.svg from the evaluations of the three run folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt

from reasoner.evaluation.metrics import Estimate
from reasoner.monitoring.format import duration
from reasoner.runs.find import find_run
from reasoner.runs.reader import SavedRun, read_run
from scripts.harness import PAGES, parser_of, write_page

NAMES = ("demonstrations, then RL", "RL alone", "demonstrations alone")


def main() -> None:
    """Read the runs and write both."""
    parser = parser_of(__doc__)
    parser.add_argument("runs", nargs=3, metavar="RUN", help="both, RL alone, demonstrations alone")
    parser.add_argument("--output", type=Path, default=PAGES, help="folder of evening.md and evening.svg")
    options = parser.parse_args()
    runs = dict(zip(NAMES, (read_run(find_run(path)) for path in options.runs), strict=True))
    text = f"{table(runs)}\n\n![Accuracy over the steps of the three runs](validation/evening.svg)"
    if options.output == PAGES:
        write_page("evening.md", "evening_curves.py", text)
    else:
        (options.output / "evening.md").write_text(f"{text}\n", encoding="utf-8")
    plot({name: curve(run) for name, run in runs.items()}, options.output / "evening.svg")


def curve(run: SavedRun) -> dict[int, Estimate]:
    """The accuracy at each evaluation, by step."""
    accuracies = ((each.step, each.evaluation.accuracy) for each in run.evaluations)
    return {step: accuracy for step, accuracy in accuracies if accuracy is not None}


def table(runs: Mapping[str, SavedRun]) -> str:
    """A row per evaluation, a column per run; the last row is the time of the whole run."""
    curves = {name: curve(run) for name, run in runs.items()}
    steps = sorted({step for each in curves.values() for step in each})
    lines = [f"| after step | {' | '.join(runs)} |", f"|---|{'---:|' * len(runs)}"]
    for step in steps:
        lines.append(f"| {step} | {' | '.join(_cell(each.get(step)) for each in curves.values())} |")
    times = [
        f"{duration(run.times.total)}{'' if run.state == 'finished' else f' ({run.state})'}" for run in runs.values()
    ]
    return "\n".join([*lines, f"| time of the whole run | {' | '.join(times)} |"])


def _cell(accuracy: Estimate | None) -> str:
    if accuracy is None:
        return "-"
    bounds = "" if accuracy.low is None or accuracy.high is None else f" [{accuracy.low:.1%}, {accuracy.high:.1%}]"
    return f"{accuracy.value:.1%}{bounds}"


def plot(curves: Mapping[str, Mapping[int, Estimate]], file: Path) -> None:
    """The curves with their 95% intervals over problems."""
    plt.rcParams.update({"svg.hashsalt": "reasoner", "font.size": 8})
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, accuracies in curves.items():
        steps, found = list(accuracies), list(accuracies.values())
        (line,) = axes.plot(steps, [100 * each.value for each in found], marker="o", label=name)
        low = [100 * (each.value if each.low is None else each.low) for each in found]
        high = [100 * (each.value if each.high is None else each.high) for each in found]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
    axes.set_xlabel("training step")
    axes.set_ylabel("accuracy on held-out kinds of stories, %")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
