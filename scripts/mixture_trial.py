#!/usr/bin/env python3
"""Trains on a mixture and on each of its tasks alone, with as many steps and responses, and compares the accuracies.

    .venv/bin/python scripts/mixture_trial.py math-gsm8k code-stdin --profile laptop --steps 12 --output runs/mixture

Every run has a folder of its own below `--output`. A finished run is not made again, and one that was interrupted is
resumed: the same command goes on where it stopped. Further options go to `reasoner run` after `--`, for example
`-- --max-hours 0.1`, which ends after one piece of a run. The table is printed as far as runs are finished.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reasoner.evaluation.intervals import holm
from reasoner.evaluation.metrics import Difference, Estimate, Evaluation, compare, is_accuracy, task_of
from reasoner.monitoring.format import interval
from reasoner.runs.checkpoints import Checkpoints
from reasoner.runs.reader import SavedRun, is_run, read_run

MIXTURE = "mixture"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="of the mixture, with equal weights")
    parser.add_argument("--profile", help="none: the tasks have no profiles")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    own, further = sys.argv[1:], list[str]()
    if "--" in own:
        own, further = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    names = [task.removesuffix(".toml") for task in options.tasks]
    arms = {MIXTURE: options.tasks, **{name: [task] for name, task in zip(names, options.tasks, strict=True)}}
    for name, tasks in arms.items():
        arguments = run_arguments(options.output / name, tasks, options.profile, options.steps, further)
        if arguments and subprocess.run([sys.executable, "-m", "reasoner", *arguments], check=False).returncode:
            break  # it failed, or it was time to stop
    runs = {name: run for name in arms if (run := latest(options.output / name)) and run.state == "finished"}
    print("\n".join(table(runs, names)))


def run_arguments(
    folder: Path, tasks: Sequence[str], profile: str | None, steps: int, further: Sequence[str]
) -> list[str]:
    """Of `reasoner`: to start a run or to resume it; none where it is finished."""
    run = latest(folder)
    if run is not None and run.state == "finished":
        return []
    if run is not None and run.can_resume and Checkpoints(run.folder).steps():
        hours = [*further, ""][further.index("--max-hours") + 1] if "--max-hours" in further else ""
        return ["run", "--resume", str(run.folder), *(["--max-hours", hours] if hours else [])]
    chosen = ["--profile", profile] if profile else []
    return ["run", *tasks, *chosen, "--steps", str(steps), "--output", str(folder), *further]


def latest(folder: Path) -> SavedRun | None:
    """The newest run below a folder."""
    folders = sorted(path for path in folder.glob("*/") if is_run(path))
    return read_run(folders[-1]) if folders else None


def table(runs: dict[str, SavedRun], tasks: Sequence[str]) -> Iterator[str]:
    """Accuracy of each task before and after both kinds of training, and the difference of these, paired by problem."""
    yield "| run | tokens sampled | task | before [95% interval] | after | change |"
    yield "|---|---|---|---|---|---|"
    for name, run in runs.items():
        tokens = sum(metrics["tokens/sampled"] for metrics in run.metrics)
        for task in tasks if name == MIXTURE else [name]:
            before, after = (of_task(run.evaluations[at].evaluation, task) for at in (0, -1))
            change = accuracy_change(before, after)
            figures = [written(item.accuracy) for item in (before, after) if item.accuracy]
            yield f"| {name} | {tokens:,.0f} | {task} | {' | '.join(figures)} | {written_change(change)} |"
    both = {task: runs[task] for task in tasks if task in runs and MIXTURE in runs}
    ends = {name: run.evaluations[-1].evaluation for name, run in runs.items()}
    changes = {task: accuracy_change(of_task(ends[task], task), of_task(ends[MIXTURE], task)) for task in both}
    for (task, change), p in zip(changes.items(), holm([change.p for change in changes.values()]), strict=True):
        yield ""
        yield f"{task}: mixture - alone {written_change(change)}, p = {p:.2g} after Holm's correction"


def of_task(evaluation: Evaluation, task: str) -> Evaluation:
    """The evaluation of one task of a mixture, or that of a single task."""
    return evaluation.tasks.get(task, evaluation)


def accuracy_change(before: Evaluation, after: Evaluation) -> Difference:
    """The paired change of accuracy."""
    return next(item for item in compare(before, after) if is_accuracy(item.name) and not task_of(item.name)[0])


def written(figure: Estimate) -> str:
    """`43.0% [34.7, 51.6]`."""
    return interval(figure.value, figure.low, figure.high, figure.unit)


def written_change(change: Difference) -> str:
    """`+25.8 [+15.6, +35.2]`."""
    return interval(change.change, change.low, change.high, change.unit, signed=True)


if __name__ == "__main__":
    main()
