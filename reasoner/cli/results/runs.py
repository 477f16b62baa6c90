"""`reasoner runs`: list, show, compare and remove runs."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.errors import DataError, UserError
from reasoner.io.folder_lock import is_going
from reasoner.models.run_models import model_folders
from reasoner.monitoring.format import age, interval, number, size
from reasoner.monitoring.lines import figure, label
from reasoner.monitoring.metrics import find, headline
from reasoner.runs.find import RUNS, find_evaluation, find_run, list_runs
from reasoner.runs.reader import RunState, SavedRun, disk_use, is_run, read_run, read_runs

if TYPE_CHECKING:
    from reasoner.report.compare import EvaluationComparison

app = typer.Typer(help="List, show, compare and remove runs.", no_args_is_help=True)

STYLES: dict[RunState, str] = {
    "running": "blue",
    "finished": "green",
    "failed": "red",
    "killed": "red",
    "interrupted": "yellow",
    "stopped": "yellow",
}
LATEST = ("response/finished", "response/length_mean", "groups/no_credit", "gap/mean")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@app.command("list")
def list_(folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = RUNS) -> None:
    """List the runs in a folder: how each ended, its accuracy before and after, and its size.

    Example: reasoner runs list
    """
    folders = list_runs(folder)
    table, unreadable = _table("run", "state", "steps", "accuracy", "size", "age"), []
    for column in (2, 3, 4, 5):
        table.columns[column].justify = "right"
        table.columns[column].no_wrap = True
    for path in folders:
        try:
            run = read_run(path)
        except DataError as error:
            unreadable.append(f"{path.name}: {error}")
            continue
        since = age((datetime.now().astimezone() - run.started).total_seconds())
        steps = f"{run.steps}/{run.planned_steps}" if run.trains else "eval"
        state = Text(run.state, STYLES[run.state])
        table.add_row(Text(str(path.relative_to(folder))), state, steps, _accuracy(run), size(disk_use(path)), since)
    console = out()
    console.print(table if table.row_count else Text(f"no runs in {folder}"))
    for message in unreadable:
        console.print(Text(f"not readable: {message}", "red"))


@app.command("show")
def show(run: options.RunName) -> None:
    """Show one run: its settings, its progress, its figures, its size, and what to do next.

    Example: reasoner runs show 20260101-12
    """
    from reasoner.report.compare import before_and_after, when
    from reasoner.report.words import ended, resumptions

    saved = read_run(find_run(run))
    console = out()
    console.print(Text(str(saved.folder), "bold"), soft_wrap=True)
    console.print(Text.assemble((saved.state, STYLES[saved.state]), f": {ended(saved)}"))
    for start in resumptions(saved):
        console.print(Text(f"resumed {start}"))
    if saved.reason:
        console.print(Text(saved.reason))
    console.print()
    console.print(_facts({name: fact for name, fact in saved.chosen.items() if name != "output"}))
    if saved.metrics:
        last = saved.metrics[-1]
        names = [name for name in (*headline(last), *LATEST) if name in last]
        console.print(Text(f"\nStep {saved.steps}", "bold"))
        console.print(_facts({label(name): number(last[name], find(name).unit) for name in names}))
    if comparison := before_and_after(saved):
        console.print(Text("\nEvaluation [95% interval]", "bold"))
        console.print(_comparison(comparison, (comparison.before, comparison.after)))
        if comparison.corrected:
            console.print(Text(_corrected_p(comparison)))
    elif saved.evaluations:
        console.print(Text(f"\nEvaluation {when(saved, saved.evaluations[-1])} [95% interval]", "bold"))
        estimates = saved.evaluations[-1].evaluation.figures
        console.print(_facts({e.name: interval(e.value, e.low, e.high, e.unit) for e in estimates}))
    if models := model_folders(saved.folder):
        console.print(Text("\nModel", "bold"))
        console.print(_facts({f"after step {step}": str(at.relative_to(saved.folder)) for step, at in models.items()}))
    console.print(Text("\nDisk", "bold"))
    console.print(_facts(_disk(saved.folder)))
    console.print(Text("\nNext", "bold"))
    for what, command in _next(saved).items():
        console.print(Text(f"{what}:"))
        console.print(Text(f"  {command}"), soft_wrap=True)


@app.command("compare")
def compare(runs: options.RunNames) -> None:
    """Compare runs: the settings that differ, and their last evaluations, paired problem by problem with the first
    run's.

    Example: reasoner runs compare 20260101-12 20260101-15
    """
    from reasoner.report.compare import between, settings

    saved = read_runs(list(dict.fromkeys(map(find_run, runs))))
    if not 2 <= len(saved) <= len(LETTERS):
        raise UserError(f"compare takes 2 to {len(LETTERS)} runs, got {len(saved)}.")
    console = out()
    for letter, run in zip(LETTERS, saved, strict=False):
        console.print(Text.assemble(f"{letter}  {run.name}  ", (run.state, STYLES[run.state])), soft_wrap=True)
    console.print(Text("\nSettings that differ", "bold"))
    table = _table("", *LETTERS[: len(saved)])
    for key, values in settings(saved):
        table.add_row(Text(key), *(Text("not set", "dim") if value is None else Text(value) for value in values))
    console.print(table if table.row_count else Text("none"))
    for letter, other in zip(LETTERS[1:], saved[1:], strict=False):
        console.print(Text(f"\n{letter} against A, last evaluation [95% interval]", "bold"))
        comparison = between(saved[0], other)
        if comparison is None:
            console.print(Text("one of them has no evaluation"))
            continue
        if comparison.rows:
            console.print(_comparison(comparison, ("A", letter)))
            if comparison.corrected:
                console.print(Text(_corrected_p(comparison)))
        if comparison.note:
            console.print(Text(comparison.note, "yellow"))


@app.command("rm")
def rm(
    runs: options.RunNames,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove folders of runs and evaluations with everything in them. Those still running are refused.

    Example: reasoner runs rm 20260101-12 --yes
    """
    folders = list(dict.fromkeys(find_evaluation(name) or find_run(name) for name in runs))
    for folder in folders:
        if folder.is_symlink():
            raise UserError(f"{folder} is a link; name the folder that it leads to: {folder.resolve()}")
        for run in [folder] if is_run(folder) else list_runs(folder):
            if is_going(run):
                raise UserError(f"{run} is still running; stop it first, then remove it.")
    sizes = [disk_use(folder) for folder in folders]
    console = out()
    for folder, bytes_ in zip(folders, sizes, strict=True):
        console.print(Text(f"{folder}  {size(bytes_)}"), soft_wrap=True)
    if not yes and not typer.confirm(f"Remove {'it' if len(folders) == 1 else f'these {len(folders)} runs'} for good?"):
        console.print("nothing was removed")
        return
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be removed completely: {error.strerror} ({error.filename}).") from error
    console.print(Text(f"freed {size(sum(sizes))}"))


def _accuracy(run: SavedRun) -> str:
    """`4.2% -> 41.7%`; without an accuracy the first figure of held-out rows, or the last step's where nothing was
    evaluated."""
    for name in (
        "accuracy",
        *(estimate.name for at in run.evaluations[-1:] for estimate in at.evaluation.held_out[:1]),
    ):
        figures = (at.evaluation.accuracy if name == "accuracy" else at.evaluation.find(name) for at in run.evaluations)
        numbers = [number(shown.value, shown.unit) for shown in figures if shown is not None]
        if numbers:
            change = " -> ".join([numbers[0], numbers[-1]] if len(numbers) > 1 else numbers)
            return change if name == "accuracy" else f"{label(name)} {change}"
    last = run.metrics[-1] if run.metrics else {}
    return ", ".join(f"{label(name)} {number(last[name], find(name).unit)}" for name in headline(last)[:1])


def _disk(folder: Path) -> dict[str, str]:
    """Size by what is in the run folder, largest first."""
    sizes = {f"{path.name}/" if path.is_dir() else path.name: disk_use(path) for path in folder.iterdir()}
    rows = sorted(sizes.items(), key=lambda item: -item[1])
    return {name: size(bytes_) for name, bytes_ in rows if bytes_ >= 10_000} | {"total": size(sum(sizes.values()))}


def _next(run: SavedRun) -> dict[str, str]:
    """What one may want to do, by the state of the run."""
    folder, log = quote(str(run.folder)), quote(str(run.folder / "log.txt"))
    if run.state == "running":
        return {"Watch it": f"tail -f {log}", "Report so far": f"reasoner report {folder}"}
    commands = {"Full report": f"reasoner report {folder}"}
    if models := model_folders(run.folder):
        commands[f"Export the model after step {max(models)}"] = f"reasoner export {folder} --to DIR"
    elif run.trains:
        commands["Read the log"] = f"less {log}"
        commands["Start it again"] = f"reasoner run {quote(str(run.folder / 'config.toml'))}"
    if run.can_resume:
        commands = {"Resume it": f"reasoner run --resume {folder}"} | commands
    return commands


def _comparison(comparison: EvaluationComparison, names: tuple[str, str]) -> Table:
    table = _table("", *names, "change")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison.rows:
        change = row.difference
        table.add_row(
            Text(figure(row.name)),
            interval(row.before.value, row.before.low, row.before.high, row.before.unit),
            interval(row.after.value, row.after.low, row.after.high, row.after.unit),
            interval(change.change, change.low, change.high, change.unit, signed=True),
            style=None if change.within_noise else "bold",
        )
    return table


def _corrected_p(comparison: EvaluationComparison) -> str:
    """`p: math-gsm8k <0.001, code-stdin 0.031, after Holm's correction for 2 comparisons`."""
    from reasoner.report.words import p_of

    tested = [row.difference for row in comparison.rows if row.difference.holm is not None]
    named = ", ".join(f"{figure(difference.name)} {p_of(difference)}" for difference in tested)
    return f"p: {named}, after Holm's correction for {len(tested)} comparisons"


def _facts(facts: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, "dim"), Text(fact, overflow="fold"))
    return grid


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns:
        column.overflow = "fold"
    return table
