"""The headline: what one run changed, or where several ended."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from reasoner.evaluation.metrics import is_held_out
from reasoner.monitoring.format import duration, interval, number, thirds
from reasoner.monitoring.lines import label
from reasoner.monitoring.metrics import find, headline
from reasoner.monitoring.summary import SAID
from reasoner.report.collect import ReportData, RunReport
from reasoner.report.compare import FigureRow, Tone
from reasoner.report.words import method, short
from reasoner.runs.reader import SavedRun

MOST = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure, before and after."""

    name: str
    before: str
    after: str
    change: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """A run among others."""

    run: SavedRun
    method: str
    steps: str
    cells: tuple[str, ...]
    """of its last evaluation, in the order of the columns"""
    time: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Runs side by side."""

    columns: tuple[str, ...]
    rows: tuple[OverviewRow, ...]


def tiles(report: RunReport) -> list[Tile]:
    """The figures that matter most: of the evaluation, or without one of the training steps."""
    if report.comparison:
        rows = {row.name: row for row in report.comparison.rows}
        first = [name for name in rows if name.startswith("avg@")]
        held_out = [name for name in rows if is_held_out(name)]
        names = [*first, "reward", "finished", "length", *held_out]
        return [_evaluation_tile(rows[name]) for name in names if name in rows][:MOST]
    names = headline(dict.fromkeys(name for metrics in report.run.metrics for name in metrics))
    return [_training_tile(report.run, name) for name in names[:MOST]]


def overview(report: ReportData) -> Overview:
    """The runs with accuracy, reward and length of their last evaluation."""
    evaluations = [run.run.evaluations[-1].evaluation if run.run.evaluations else None for run in report.runs]
    measured = dict.fromkeys(
        estimate.name for evaluation in evaluations if evaluation for estimate in evaluation.figures
    )
    names = [name for name in measured if name.startswith("avg@")]
    names += [name for name in ("reward", "length") if name in measured]
    names += [name for name in measured if is_held_out(name) and name.endswith(("/loss", "/accuracy"))]
    rows = []
    for run_report, evaluation in zip(report.runs, evaluations, strict=True):
        estimates = [evaluation.find(name) if evaluation else None for name in names]
        cells = tuple("" if e is None else interval(e.value, e.low, e.high, e.unit) for e in estimates)
        steps = f"{run_report.run.steps}/{run_report.run.planned_steps}" if run_report.run.trains else ""
        time = "" if run_report.run.seconds is None else duration(run_report.run.seconds)
        rows.append(OverviewRow(run_report.run, method(run_report.run), steps, cells, time))
    return Overview(tuple(map(short, names)), tuple(rows))


def _evaluation_tile(row: FigureRow) -> Tile:
    difference = row.difference
    change = interval(difference.change, difference.low, difference.high, difference.unit, signed=True)
    unit = {"share": " points", "tokens": " tokens"}.get(difference.unit, "")
    noise = ", within noise" if difference.within_noise else ""
    return Tile(
        short(row.name).capitalize(),
        f"from {_plain(row.before.value, difference.unit)}",
        _plain(row.after.value, difference.unit),
        f"{change}{unit}{noise}",
        row.tone,
    )


def _training_tile(run: SavedRun, name: str) -> Tile:
    unit = find(name).unit
    first, last, direction = thirds([metrics.get(name, nan) for metrics in run.metrics])
    before = f"from {number(first, unit)} (first third of the steps)"
    return Tile(label(name).capitalize(), before, number(last, unit), SAID[direction], "neutral")


def _plain(value: float, unit: str) -> str:
    digits = {"share": 1, "tokens": 0, "nats": 3, "number": 3}.get(unit, 2)
    return f"{100 * value:.{digits}f}%" if unit == "share" else f"{value:.{digits}f}"
