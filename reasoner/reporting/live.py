"""The live view: what happens now, in a fixed block at the bottom of a terminal; everything else scrolls above it."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from reasoner.evaluation import Evaluation
from reasoner.reporting import lines
from reasoner.reporting.format import duration, number, sparkline
from reasoner.reporting.metrics import find, headline
from reasoner.reporting.summary import print_summary
from reasoner.reporting.view import Summary

TREND = 24
"""characters"""
PER_SECOND = 4
"""redraws; each is one write, so that nothing flickers"""


class LiveView:
    """Step bar, stage bar and the current metrics with their trend."""

    def __init__(self, console: Console, ascii_only: bool) -> None:
        self._console = console
        self._ascii_only = ascii_only
        self._history: list[Mapping[str, float]] = []
        self._steps = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._stages = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            console=console,
        )
        self._stage_name = ""
        self._step_bar = self._steps.add_task("step    ", total=None, visible=False, left="")
        self._stage_bar = self._stages.add_task("        ", total=None, visible=False, count="")
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=PER_SECOND, vertical_overflow="crop"
        )

    def started(self, facts: Mapping[str, str], steps: int) -> None:
        self._steps.update(self._step_bar, total=steps, visible=True)
        self._above(lines.facts(facts))

    def message(self, text: str) -> None:
        self._above(text)

    def stage(self, name: str, done: int, total: int) -> None:
        if name != self._stage_name:
            self._stage_name = name
            self._stages.reset(self._stage_bar, description=f"{name:<8}", visible=True)
        count = f"{done}/{total}" if total else ""
        self._stages.update(self._stage_bar, completed=done, total=total or None, count=count)

    def evaluated(self, when: str, evaluation: Evaluation) -> None:
        self._above(lines.evaluation(when, evaluation))

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._history.append(metrics)
        left = lines.time_left(self._history, total - step)
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
        parts: list[RenderableType] = [self._steps, self._stages]
        if self._history:
            parts.append(self._table())
            parts += [Text(alert, style="bold red") for alert in lines.alerts(self._history[-1])]
        return Group(*parts)

    def _table(self) -> Table:
        now = self._history[-1]
        table = Table(box=box.ASCII2 if self._ascii_only else box.SIMPLE_HEAD, show_edge=False)
        table.add_column("", no_wrap=True)
        for column in ("now", "first"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("trend", no_wrap=True)
        names = headline(now)
        names += ["response/finished", "response/length_mean", "groups/no_credit", "gap/mean"]
        names += ["tokens_per_s/sample", "memory/rss_gib", "memory/device_gib"]
        for name in names:
            column_ = [metrics.get(name, nan) for metrics in self._history]
            if name in now:
                unit = find(name).unit
                trend = sparkline(column_, TREND, self._ascii_only)
                table.add_row(lines.label(name), number(column_[-1], unit), number(column_[0], unit), trend)
        return table

    def _above(self, text: str) -> None:
        self._console.print(Text(text))
