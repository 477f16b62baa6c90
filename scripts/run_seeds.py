#!/usr/bin/env python3
"""Runs one command with several seeds and writes what came out as a table with intervals.

    .venv/bin/python scripts/run_seeds.py math-gsm8k --profile laptop --seeds 0,1,2,3,4 --output runs/seeds

Every seed has a folder of its own below `--output`. A finished run is not made again, and one that was interrupted is
resumed: the same command goes on where it stopped. Further options go to `reasoner run` after `--`, for example
`-- --set learning.learning_rate=1e-5`. The table is written to `--table`, when there is at least one finished run;
`--only-table` runs nothing. Exit code 1: a run failed, or the accuracy of a finished one did not rise beyond noise.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t as student

from reasoner.evaluation.metrics import Difference, compare
from reasoner.monitoring.format import duration
from reasoner.runs.checkpoints import Checkpoints
from reasoner.runs.reader import SavedRun, is_run, read_run

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class SeedResult:
    """A finished run."""

    seed: int
    accuracy: Difference
    seconds: float
    """from the run's folder to its end, without installation"""


def main() -> None:
    """Run what is missing, then write the table."""
    options, further = parse_arguments(sys.argv[1:])
    seeds = [int(seed) for seed in options.seeds.split(",")]
    failed = []
    for seed in [] if options.only_table else seeds:
        folder = options.output / f"seed-{seed}"
        arguments = run_arguments(folder, seed, options.task, options.profile, further)
        if arguments and subprocess.run([sys.executable, "-m", "reasoner", *arguments], check=False).returncode:
            failed.append(seed)
    results = [result for seed in seeds if (result := read_result(options.output / f"seed-{seed}", seed))]
    if results:
        command = " ".join(["reasoner run", options.task, "--profile", options.profile, *further])
        options.table.write_text(table(command, results, missing=len(seeds) - len(results)), encoding="utf-8")
        print(f"{len(results)} of {len(seeds)} runs are in {options.table}")
    flat = [result.seed for result in results if result.accuracy.within_noise or result.accuracy.change < 0]
    for what, some in (("failed", failed), ("did not rise beyond noise", flat)):
        if some:
            print(f"{what}: seeds {', '.join(map(str, some))}")
    sys.exit(1 if failed or flat else 0)


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and what goes to `reasoner run`: everything after the first `--`."""
    own, further = arguments, list[str]()
    if "--" in arguments:
        at = arguments.index("--")
        own, further = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "validation" / "seeds.md")
    parser.add_argument("--only-table", action="store_true")
    return parser.parse_args(own), further


def run_arguments(folder: Path, seed: int, task: str, profile: str, further: Sequence[str]) -> list[str]:
    """Of `reasoner`: to start the run of a seed or to go on with it; none where it is finished."""
    run = latest(folder)
    if run is not None and run.state == "finished":
        return []
    if run is not None and run.can_resume and Checkpoints(run.folder).steps():
        return ["run", "--resume", str(run.folder)]
    return ["run", task, "--profile", profile, "--set", f"run.seed={seed}", "--output", str(folder), *further]


def latest(folder: Path) -> SavedRun | None:
    """The newest run below a folder."""
    runs = sorted(path for path in folder.glob("*") if is_run(path))
    return read_run(runs[-1]) if runs else None


def read_result(folder: Path, seed: int) -> SeedResult | None:
    """What a finished run achieved; None: it is not finished."""
    run = latest(folder)
    if run is None or run.state != "finished" or len(run.evaluations) < 2:
        return None
    first, last = run.evaluations[0].evaluation, run.evaluations[-1].evaluation
    accuracy = next(item for item in compare(first, last) if item.name == f"avg@{last.samples}")
    return SeedResult(seed, accuracy, run.times.total)


def table(command: str, results: Sequence[SeedResult], missing: int) -> str:
    """The page."""
    lines = [
        "# Several seeds",
        "",
        f"`{command} --set run.seed=N`, by `scripts/run_seeds.py`. Accuracy on the evaluation problems before and "
        "after training; the intervals of a seed are over problems (paired), those of the mean over seeds (Student's "
        "t). Time is from the run's folder to its end, without installation.",
        "",
        "| seed | before | after | change [95% interval] | problems + / = / - | time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        accuracy = result.accuracy
        same = accuracy.problems - accuracy.rose - accuracy.fell
        lines.append(
            f"| {result.seed} | {100 * accuracy.before:.1f}% | {100 * accuracy.after:.1f}% | {_change(accuracy)} | "
            f"{accuracy.rose} / {same} / {accuracy.fell} | {duration(result.seconds)} |"
        )
    lines.append(f"| **mean of {len(results)}** | {_mean(results)} |  |  |")
    beyond = sum(not result.accuracy.within_noise and result.accuracy.change > 0 for result in results)
    lines += ["", f"The rise is beyond noise in {beyond} of {len(results)} runs."]
    if missing:
        lines.append(f"{missing} more seeds were asked for and are not finished.")
    return "\n".join(lines) + "\n"


def _change(difference: Difference) -> str:
    bounds = (
        ""
        if difference.low is None or difference.high is None
        else f" [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    )
    return f"{100 * difference.change:+.1f}{bounds} points"


def _mean(results: Sequence[SeedResult]) -> str:
    before, after, changes = (
        [100 * getattr(result.accuracy, name) for result in results] for name in ("before", "after", "change")
    )
    half = student.ppf(0.975, len(changes) - 1) * stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0
    middle = fmean(changes)
    bounds = f" [{middle - half:+.1f}, {middle + half:+.1f}]" if half else ""
    return f"{fmean(before):.1f}% | {fmean(after):.1f}% | {middle:+.1f}{bounds} points"


if __name__ == "__main__":
    main()
