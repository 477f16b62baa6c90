"""The report as short Markdown: what fits into a message or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import nan

from reasoner.evaluation.examples import Example, shortened
from reasoner.monitoring.format import duration, interval, number, sparkline, thirds
from reasoner.monitoring.lines import label
from reasoner.monitoring.metrics import find, headline
from reasoner.report.collect import ReportData, RunReport
from reasoner.report.compare import EvaluationComparison, when
from reasoner.report.tiles import overview
from reasoner.report.words import ABOUT_EVALUATION, ended, hide_home_folder, p_of, resumptions, short, versions
from reasoner.runs.reader import SavedRun

_ESCAPES = {"\\": "\\\\", "`": "\\`", "*": "\\*", "|": "\\|", "<": "&lt;", "&": "&amp;"}
TREND = 24
"""characters"""
LONGEST_EXAMPLE = 300
"""characters of a problem or a response: a longer one keeps its beginning and its end"""
WATCHED = (
    "response/finished",
    "response/length_mean",
    "groups/no_credit",
    "entropy",
    "gap/mean",
    "tokens_per_s/sample",
)


def as_markdown(report: ReportData) -> str:
    """The report as text."""
    parts = list(_comparison_sections(report)) if len(report.runs) > 1 else list(_single(report.runs[0]))
    parts += [f"Note: {escaped(note)}" for note in report.notes]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """One line in which nothing starts a tag, a link, a column, code or emphasis."""
    line = "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"\](?=[(\[:])", r"\\]", line)


def _single(report: RunReport) -> Iterator[str]:
    run = report.run
    yield f"# {escaped(run.name)}"
    yield f"**{run.state}**: {ended(run)}" + (f". {escaped(run.reason)}" if run.reason else "")
    warned = (f"step {warning.step}: {warning.what}. {warning.advice}" for warning in report.warnings)
    if notes := [*report.verdicts, *report.gate, *warned, *report.alerts]:
        yield "\n".join(f"- {escaped(line)}" for line in notes)
    yield from _evaluation(report)
    if report.examples:
        yield "## Responses before and after training"
        yield "\n\n".join(_example(number, example) for number, example in enumerate(report.examples, 1))
    if run.metrics:
        yield f"## Training, {run.steps} steps"
        yield _training(run)
    if report.seconds:
        yield "## Time"
        total = sum(report.seconds.values())
        rows = [(name, duration(s), f"{100 * s / total:.0f}%") for name, s in report.seconds.items()]
        yield table(("", "time", "share"), [*rows, ("total", duration(total), "")])
    yield "## What was run"
    facts = {name: fact for name, fact in run.chosen.items() if name != "output"} | {"versions": versions(run)}
    entries = [*facts.items(), *(("resumed", start) for start in resumptions(run))]
    yield "\n".join(f"- {name}: {escaped(hide_home_folder(fact))}" for name, fact in entries)


def _comparison_sections(report: ReportData) -> Iterator[str]:
    yield f"# {len(report.runs)} runs"
    summary = overview(report)
    rows = [(r.run.name, r.run.state, r.method, r.steps, *r.cells, r.time) for r in summary.rows]
    yield table(("run", "state", "method", "steps", *summary.columns, "time"), rows)
    for comparison in report.comparisons:
        yield f"## {escaped(comparison.title)}"
        yield comparison_text(comparison)
    yield "## Settings that differ"
    values = [(key, *("not set" if value is None else value for value in row)) for key, row in report.settings]
    yield table(("key", *(escaped(run.run.name) for run in report.runs)), values) if values else "None."


def _evaluation(report: RunReport) -> Iterator[str]:
    if report.comparison:
        yield "## Evaluation"
        yield comparison_text(report.comparison)
        yield ABOUT_EVALUATION
    elif report.run.evaluations:
        last = report.run.evaluations[-1]
        yield f"## Evaluation {when(report.run, last)}"
        rows = [(short(e.name), interval(e.value, e.low, e.high, e.unit)) for e in last.evaluation.figures]
        yield table(("", "[95% interval]"), rows)


def comparison_text(comparison: EvaluationComparison) -> str:
    """A comparison as a table."""
    rows = [
        (
            short(row.name),
            interval(row.before.value, row.before.low, row.before.high, row.before.unit),
            interval(row.after.value, row.after.low, row.after.high, row.after.unit),
            interval(difference.change, difference.low, difference.high, difference.unit, signed=True),
            p_of(difference),
        )
        for row in comparison.rows
        for difference in [row.difference]
    ]
    head = ("", escaped(comparison.before), escaped(comparison.after), "change [95% interval]", "p")
    notes = [text for text in (comparison.corrected, comparison.note) if text]
    return "\n\n".join([table(head, rows), *map(escaped, notes)])


def _example(number: int, example: Example) -> str:
    """A problem with its two responses, cut to what fits into a message."""
    verdicts = ["right" if right else "wrong" for right in (example.right_before, example.right_after)]
    reference = f" (answer: {escaped(shortened(example.answer, 40))})" if example.answer else ""
    rows = [
        f"{number}. {example.kind}",
        f"   - problem: {escaped(shortened(example.question, LONGEST_EXAMPLE))}{reference}",
        f"   - before, {verdicts[0]}: {escaped(shortened(example.before, LONGEST_EXAMPLE))}",
        f"   - after, {verdicts[1]}: {escaped(shortened(example.after, LONGEST_EXAMPLE))}",
    ]
    return "\n".join(rows)


def _training(run: SavedRun) -> str:
    names = dict.fromkeys(name for metrics in run.metrics for name in metrics)
    rows = []
    for name in [*headline(names), *(name for name in WATCHED if name in names)]:
        values = [metrics.get(name, nan) for metrics in run.metrics]
        first, last, direction = thirds(values)
        unit = find(name).unit
        rows.append((label(name), number(first, unit), number(last, unit), sparkline(values, TREND), direction))
    return table(("", "first third", "last third", "every step", ""), rows)
