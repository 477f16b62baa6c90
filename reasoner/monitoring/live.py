"""The live view: what happens now, in a fixed block at the bottom of a terminal; everything else scrolls above it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import NamedTuple, Self

from rich import box
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from reasoner.evaluation.metrics import Evaluation
from reasoner.monitoring import lines
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.format import Trend, duration, number, sparkline
from reasoner.monitoring.metrics import find, headline
from reasoner.monitoring.summary import print_summary
from reasoner.monitoring.view import Summary

NAME = (16, 24)
"""characters of a metric's name; a longer one is cut"""
TREND = (8, 60)
"""characters of a trend: as wide as the terminal allows, left out where less fits"""
BAR = (8, 24)
"""characters of the bars"""
BESIDE_BAR = 48
"""characters of the step line without its bar"""
PER_SECOND = 4
"""redraws; each is one write, so that nothing flickers"""
SHOWN = (
    "tools/calls",
    "tools/malformed",
    "tools/failed",
    "response/length_mean",
    "response/finished",
    "response/entropy",
    "groups/no_credit",
    "gap/mean",
    "tokens_per_s/sample",
    "memory/rss_gib",
    "memory/device_gib",
)
"""below rewards and evaluation"""
ACCURACY = "eval accuracy"


class _Row(NamedTuple):
    name: str
    unit: str
    trend: Trend


class _Trends(dict[str, Trend]):
    """Series by name, all of the same length: NaN stands where one had no value."""

    length = 0

    def append(self, values: Mapping[str, float]) -> None:
        for name in values:
            if name not in self:
                self[name] = Trend([nan] * self.length)
        for name, trend in self.items():
            trend.append(values.get(name, nan))
        self.length += 1


class LiveView:
    """Step bar, stage bar, warnings, and the current figures with their trend. It is redrawn several times a second, so
    what it draws is kept up to date by the events, and a drawing takes as long after a thousand steps as after ten."""

    def __init__(self, console: Console, ascii_only: bool) -> None:
        self._console = console
        self._ascii_only = ascii_only
        self._recent: deque[Mapping[str, float]] = deque(maxlen=lines.RECENT)
        """the metrics of the last steps"""
        self._figures = _Trends()
        self._evaluated = _Trends()
        self._units: dict[str, str] = {}
        """of the figures of evaluations, in the order in which they came up"""
        self._warnings: Sequence[Warned] = ()
        self._bars = (BarColumn(), BarColumn())
        self._steps = Progress(
            TextColumn("{task.description}", markup=False),
            self._bars[0],
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
        )
        self._stages = Progress(
            TextColumn("{task.description}", markup=False),
            self._bars[1],
            TextColumn("{task.fields[count]}", markup=False),
            console=console,
        )
        self._stage_name = ""
        self._step_bar = self._steps.add_task("step      ", total=None, visible=False, left="")
        self._stage_bar = self._stages.add_task("          ", total=None, visible=False, count="")
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=PER_SECOND, vertical_overflow="crop"
        )

    def started(self, facts: Mapping[str, str], steps: int) -> None:
        self._steps.update(self._step_bar, total=steps, visible=steps > 0)
        grid = Table.grid(padding=(0, 2))
        for name, fact in facts.items():
            grid.add_row(name, Text(fact, overflow="fold"))
        self._console.print(grid)

    def resumed(self, history: Sequence[Mapping[str, float]], evaluations: Sequence[Evaluation], steps: int) -> None:
        for metrics in history:
            self._add_step(metrics)
        for evaluation in evaluations:
            self._add_evaluation(evaluation)
        self._steps.update(self._step_bar, completed=len(history), total=steps)

    def message(self, text: str) -> None:
        self._above(text)

    def stage(self, name: str, done: int, total: int) -> None:
        if name != self._stage_name:
            self._stage_name = name
            self._stages.reset(self._stage_bar, description=f"{name:<10}", visible=True)
        count = f"{done}/{total}" if total else ""
        self._stages.update(self._stage_bar, completed=done, total=total or None, count=count)

    def evaluated(self, when: str, evaluation: Evaluation) -> None:
        self._add_evaluation(evaluation)
        self._above(lines.evaluation(when, evaluation))

    def step(self, step: int, total: int, metrics: Mapping[str, float], warnings: Sequence[Warned]) -> None:
        self._add_step(metrics)
        self._warnings = warnings
        for warned in lines.new(warnings, step):
            self._above(lines.warning(warned), "yellow")
        left = lines.time_left(list(self._recent), total - step)
        text = "" if left is None else f"left about {duration(left)}"
        self._steps.update(self._step_bar, completed=step, total=total, left=text)

    def finished(self, summary: Summary) -> None:
        self._live.transient = True  # the summary says it all; after a failure the last state stays
        self._live.stop()
        print_summary(self._console, summary, self._ascii_only)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def render(self) -> RenderableType:
        """The block at the bottom."""
        for bar in self._bars:
            bar.bar_width = max(BAR[0], min(BAR[1], self._console.width - BESIDE_BAR))
        parts: list[RenderableType] = [self._steps, self._stages]
        if self._recent:
            parts += self._whereabouts(self._recent[-1])
            parts += [self._line(alert, "bold red") for alert in lines.alerts(self._recent[-1])]
        parts += [self._line(f"since step {warning.step}: {warning.what}", "yellow") for warning in self._warnings]
        rows = [*self._rewards(), *self._evaluation(), *self._of_metrics(SHOWN)]
        return Group(*parts, self._table(rows)) if rows else Group(*parts)

    def _whereabouts(self, metrics: Mapping[str, float]) -> Iterable[Text]:
        """One line, whatever the width; none where it was not measured."""
        if text := lines.whereabouts(metrics):
            shown = Text(f"last step  {text}", style="dim")
            shown.truncate(self._console.width, overflow="crop" if self._ascii_only else "ellipsis")
            yield shown

    def _line(self, text: str, style: str) -> Text:
        shown = Text(f"! {text}", style=style)
        shown.truncate(self._console.width, overflow="crop" if self._ascii_only else "ellipsis")
        return shown

    def _add_step(self, metrics: Mapping[str, float]) -> None:
        self._figures.append({name: metrics[name] for name in (*headline(metrics), *SHOWN) if name in metrics})
        self._recent.append(metrics)  # last: it may be drawn meanwhile

    def _add_evaluation(self, evaluation: Evaluation) -> None:
        figures = {lines.figure(estimate.name): estimate.value for estimate in evaluation.held_out}
        if evaluation.accuracy is not None:
            figures[ACCURACY] = evaluation.accuracy.value
        self._evaluated.append(figures)
        sampled = {ACCURACY: "share"} if evaluation.samples else {}
        self._units = sampled | self._units | {lines.figure(e.name): e.unit for e in evaluation.held_out}

    def _rewards(self) -> Iterable[_Row]:
        return self._of_metrics(headline(self._recent[-1])) if self._recent else ()

    def _of_metrics(self, names: Iterable[str]) -> Iterable[_Row]:
        for name in names:
            if self._recent and name in self._recent[-1]:
                yield _Row(lines.label(name), find(name).unit, self._figures[name])

    def _evaluation(self) -> Iterable[_Row]:
        for name, unit in self._units.items():
            yield _Row(name, unit, self._evaluated.get(name) or Trend([nan] * self._evaluated.length))

    def _table(self, rows: Sequence[_Row]) -> Table:
        table = Table(box=box.ASCII2 if self._ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        longest = NAME[1] if self._console.width >= 80 else NAME[0]
        cut: OverflowMethod = "crop" if self._ascii_only else "ellipsis"
        table.add_column("", no_wrap=True, max_width=longest, overflow=cut)
        for column in ("now", "first"):
            table.add_column(column, justify="right", no_wrap=True)
        cells = [(row.name, number(row.trend.last, row.unit), number(row.trend.first, row.unit)) for row in rows]
        names, now, first = (max(map(len, column)) for column in zip(*cells, strict=True))
        taken = min(longest, names) + now + first + 3 * 3
        width = min(TREND[1], self._console.width - taken)
        if width >= TREND[0]:
            table.add_column("trend", no_wrap=True)
        for row, texts in zip(rows, cells, strict=True):
            trend = [sparkline(row.trend.points(width), width, self._ascii_only)] if width >= TREND[0] else []
            table.add_row(*texts, *trend)
        return table

    def _above(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style))
