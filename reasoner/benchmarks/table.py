"""The results of an evaluation as tables, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoner.benchmarks.results import BenchmarkResult, ModelComparison, by_task, comparisons
from reasoner.evaluation.metrics import Difference, Estimate, Evaluation
from reasoner.models.run_models import recorded_step
from reasoner.monitoring.format import interval
from reasoner.monitoring.lines import size
from reasoner.training.evaluator import evaluation_params

VERDICTS = {0: "within noise", 1: "borderline", 2: "beyond noise"}
"""by how many of interval and test say that something changed: on few problems they can differ"""


def print_results(console: Console, folder: Path, results: Sequence[BenchmarkResult]) -> None:
    """Per task a table of figures, and one of paired changes where there are several models; then which is which."""
    for task, of_task in by_task(results).items():
        names = _shown(of_task[0].evaluation)
        console.print(Text(f"\n{_heading(task, of_task)}", style="bold"))
        console.print(_figures(of_task, names) if len(of_task) > 1 else _every_figure(of_task[0].evaluation))
        if compared := comparisons(of_task):
            console.print(Text(f"\npaired by problem; shares in points{_judged_note(of_task, compared)}", style="bold"))
            console.print(_differences(compared, names))
    console.print()
    for letter, path in {result.letter: result.config.model.path for result in results}.items():
        step = recorded_step(Path(path))
        console.print(Text(f"{letter}  {path}{'' if step is None else f', step {step} of its run'}"), soft_wrap=True)
    console.print(Text(f"\nevaluation folder: {folder}"), soft_wrap=True)


def _heading(task: str, results: Sequence[BenchmarkResult]) -> str:
    params = evaluation_params(results[0].config)
    how = "greedy" if params.temperature == 0.0 else f"temperature {params.temperature:g}"
    return f"{task}: {size(results[0].evaluation)}, {how}"


def _judged_note(results: Sequence[BenchmarkResult], compared: Sequence[ModelComparison]) -> str:
    """Over how many problems correctness is compared, where these are not all; empty otherwise."""
    all_of_them = results[0].evaluation.problems
    sizes = {row.problems for pair in compared for row in pair.differences if row.name.startswith("avg@")}
    if sizes <= {all_of_them}:
        return ""
    return f"; correctness over {' and '.join(map(str, sorted(sizes)))} of {all_of_them} problems, judged on both sides"


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _every_figure(evaluation: Evaluation) -> Table:
    table = _table()
    for figure in evaluation.estimates:
        table.add_row(figure.name.removeprefix("reward/"), interval(figure.value, figure.low, figure.high, figure.unit))
    return table


def _figures(results: Sequence[BenchmarkResult], names: Sequence[str]) -> Table:
    table = _table()
    judged = any(result.evaluation.judged < result.evaluation.problems for result in results)
    abstained = any(result.evaluation.abstained for result in results)
    table.add_column("")
    for name in names:
        table.add_column(f"{name} [95% interval]" if name == names[0] else name, justify="right")
    if judged:
        table.add_column("judged", justify="right")
    if abstained:
        table.add_column("abstained", justify="right")
    for result in results:
        cells = [_cell(result.evaluation.find(name), with_interval=name == names[0]) for name in names]
        cells += [str(result.evaluation.judged)] if judged else []
        table.add_row(result.letter, *cells, *([str(result.evaluation.abstained)] if abstained else []))
    return table


def _cell(estimate: Estimate | None, *, with_interval: bool) -> str:
    if estimate is None:
        return "-"
    bounds = (estimate.low, estimate.high) if with_interval else (None, None)
    return interval(estimate.value, *bounds, estimate.unit)


def _shown(evaluation: Evaluation) -> list[str]:
    """The figures that fit: accuracy, pass@k with the largest k, maj@k, what responses are like, the reward."""
    k = evaluation.samples
    names = (f"avg@{k}", f"pass@{k}", f"maj@{k}", "finished", "length", "reward")
    return [name for name in names if evaluation.find(name) is not None]


def _differences(compared: Sequence[ModelComparison], names: Sequence[str]) -> Table:
    """The figures of a single comparison; of several those of correctness."""
    table = _table()
    for column in ("", "", "change [95% interval]", "rose", "fell", "p", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for comparison in compared:
        pair = f"{comparison.model} - {comparison.baseline}"
        for row in comparison.differences:
            if row.name in names and (len(compared) == 1 or "@" in row.name):
                change = interval(row.change, row.low, row.high, row.unit, signed=True)
                p = "<0.001" if row.p < 0.001 else f"{row.p:.3f}"
                table.add_row(pair, row.name, change, str(row.rose), str(row.fell), p, VERDICTS[_signs(row)])
                pair = ""
    return table


def _signs(difference: Difference) -> int:
    return int(not difference.within_noise) + int(difference.p < 0.05)
