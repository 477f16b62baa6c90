"""Everything that a report shows, read from run folders and computed, before it has a form."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, nan
from operator import itemgetter
from pathlib import Path

from reasoner.errors import DataError
from reasoner.evaluation.examples import Example
from reasoner.io.bounded_files import LARGE_BYTES, is_there, read_lines
from reasoner.io.serialization import from_json, read_jsonl
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.lines import alerts
from reasoner.monitoring.summary import PHASES, REST, gate_lines, time_by_phase, verdicts
from reasoner.monitoring.timer import StepTimeline
from reasoner.report.charts.series import Series
from reasoner.report.charts.svg import Bars
from reasoner.report.charts.timeline import STEPS
from reasoner.report.choose import RolloutFile, rollout_files
from reasoner.report.compare import EvaluationComparison, before_and_after, between, settings
from reasoner.report.panels import Panel, PanelSection, Spread, evaluation_panels, panels
from reasoner.runs.examples import read_examples
from reasoner.runs.folder import TIMELINE, read_gate
from reasoner.runs.reader import SavedRun, read_runs

_SHARE = re.compile(r"([\d.]+)%")


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run."""

    index: int
    """its place among the runs, and its colour"""
    run: SavedRun
    verdicts: tuple[str, ...]
    """what it achieved, in sentences"""
    gate: tuple[str, ...]
    """The result of the check on a few training problems before training, in sentences."""
    examples: tuple[Example, ...]
    """responses before and after training"""
    alerts: tuple[str, ...]
    """what should not have happened, and when"""
    warnings: tuple[Warned, ...]
    """what the run warned of while it went"""
    seconds: Mapping[str, float]
    """by stage, over the whole run"""
    stages: Bars | None
    """seconds by stage and step; None: no step is committed"""
    timeline: tuple[StepTimeline, ...]
    """who worked when, of the last steps"""
    comparison: EvaluationComparison | None
    """before and after training"""
    files: tuple[RolloutFile, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """One run, or several side by side."""

    runs: tuple[RunReport, ...]
    panels: Mapping[PanelSection, Sequence[Panel]]
    evaluation: Sequence[Panel]
    """charts of evaluations made at several steps"""
    comparisons: tuple[EvaluationComparison, ...]
    """the last evaluation of every run against the first run's"""
    settings: Sequence[tuple[str, tuple[str | None, ...]]]
    """settings that differ between the runs"""
    notes: tuple[str, ...]
    """what could not be read"""

    @property
    def charts(self) -> list[Panel]:
        """All charts of lines."""
        return [*self.evaluation, *(panel for section in self.panels.values() for panel in section)]


def collect(folders: Sequence[Path], progress: Callable[[str], None] = lambda text: None) -> ReportData:
    """Read the runs, the first one being what the others are compared with.

    Raises:
        DataError: a folder is no run's, or cannot be read.
    """
    runs = read_runs(folders)
    reports, notes = [], list[str]()
    for index, run in enumerate(runs):
        progress(f"reading {run.name}")
        files, remarks = rollout_files(run.folder, run.steps)
        examples, missing = _examples(run)
        reports.append(_run_report(index, run, files, examples))
        notes += [*remarks, *missing]
    spreads: list[Spread] = [{file.step: file.groups for file in report.files if file.training} for report in reports]
    compared = (between(runs[0], other) for other in runs[1:])
    return ReportData(
        runs=tuple(reports),
        panels=panels(runs, spreads),
        evaluation=evaluation_panels(runs),
        comparisons=tuple(comparison for comparison in compared if comparison is not None),
        settings=settings(runs) if len(runs) > 1 else [],
        notes=tuple(notes),
    )


def _examples(run: SavedRun) -> tuple[tuple[Example, ...], list[str]]:
    """Responses of the first evaluation and of the last, and notes on those that are missing."""
    steps = [evaluated.step for evaluated in run.evaluations]
    if not run.criteria or not run.trains or len(steps) < 2:
        return (), []
    try:
        return read_examples(run.folder, steps[0], steps[-1], run.criteria), []
    except DataError as error:
        return (), [f"{error}; there are no examples of it."]


def _run_report(index: int, run: SavedRun, files: Sequence[RolloutFile], examples: tuple[Example, ...]) -> RunReport:
    evaluations = (run.evaluations[0].evaluation, run.evaluations[-1].evaluation) if len(run.evaluations) > 1 else None
    warnings = run.folder / "warnings.jsonl"
    return RunReport(
        index=index,
        run=run,
        verdicts=tuple(verdicts(run.correct, run.metrics, evaluations)) if run.metrics else (),
        gate=tuple(gate_lines(read_gate(run.folder))),
        examples=examples,
        alerts=tuple(_alerts(run.metrics)),
        warnings=tuple(read_jsonl(warnings, Warned, appended=True, most=LARGE_BYTES) if is_there(warnings) else ()),
        seconds=time_by_phase(run.metrics, run.times.set_up, run.times.evaluation, run.times.total),
        stages=_stages(run),
        timeline=_timeline(run),
        comparison=before_and_after(run),
        files=tuple(files),
    )


def _stages(run: SavedRun) -> Bars | None:
    if not run.metrics:
        return None
    steps = tuple(metrics["step"] for metrics in run.metrics)
    parts = [
        Series(phase, colour, steps, tuple(metrics.get(name, nan) for metrics in run.metrics))
        for colour, (name, phase) in enumerate(PHASES.items())
        if any(name in metrics for metrics in run.metrics)
    ]
    others = tuple(
        max(0.0, metrics.get("time/total", nan) - sum(part.values[at] for part in parts if isfinite(part.values[at])))
        for at, metrics in enumerate(run.metrics)
    )
    return Bars("stage-times", "Stage times", (*parts, Series(REST, len(PHASES), steps, others)))


def _timeline(run: SavedRun) -> tuple[StepTimeline, ...]:
    """Of the last steps; none where the run did not keep it."""
    file = run.folder / TIMELINE
    if not run.metrics or not is_there(file):
        return ()
    # one more than are shown: a step that was not committed may follow
    complete = (line for line in enumerate(read_lines(file, LARGE_BYTES), 1) if line[1].endswith(b"\n"))
    last = []
    for number, line in deque(complete, maxlen=STEPS + 1):
        try:
            last.append(from_json(line, StepTimeline))
        except DataError as error:
            raise DataError(f"{file}, line {number}: {error}") from error
    return tuple(timeline for timeline in last if timeline.step <= run.steps)[-STEPS:]


def _alerts(history: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """`steps 3, 7-9: math FAILED in up to 9.4% of its calls`."""
    by_text: dict[str, list[tuple[int, float]]] = {}
    for metrics in history:
        for text in alerts(metrics):
            share = _SHARE.search(text)
            by_text.setdefault(_SHARE.sub("{}", text), []).append(
                (int(metrics["step"]), float(share[1]) if share else 0.0)
            )
    for text, shares in by_text.items():
        steps, most = [step for step, _ in shares], max(share for _, share in shares)
        share_text = f"{most:g}%" if len(shares) == 1 else f"up to {most:g}%"
        yield f"{'step' if len(steps) == 1 else 'steps'} {ranges(steps)}: {text.replace('{}', share_text)}"


def ranges(steps: Sequence[int]) -> str:
    """`1-3, 7`."""
    parts = []
    for _, run in groupby(enumerate(steps), lambda pair: pair[1] - pair[0]):
        members = list(map(itemgetter(1), run))
        parts.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return ", ".join(parts)
