"""The report as one HTML file: template, style, scripts and data, nothing from the network.

Text from runs is escaped by Jinja; responses travel as compressed data and are put in by scripts as text, never as
HTML. A content security policy allows exactly the style and the script that are in the file, by their hashes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import reasoner
from reasoner.evaluation.examples import shortened
from reasoner.evaluation.metrics import Estimate
from reasoner.monitoring.format import duration, interval
from reasoner.report.charts import svg
from reasoner.report.charts.series import Series, thin
from reasoner.report.charts.svg import Bars
from reasoner.report.charts.timeline import timeline_chart
from reasoner.report.collect import ReportData, RunReport
from reasoner.report.compare import EvaluationComparison, when
from reasoner.report.panels import Panel
from reasoner.report.text import LONGEST_EXAMPLE
from reasoner.report.tiles import overview, tiles
from reasoner.report.words import (
    ABOUT_CURVES,
    ABOUT_EVALUATION,
    ended,
    hide_home_folder,
    p_of,
    resumptions,
    short,
    versions,
)

SCRIPTS = ("text.js", "charts.js", "filter.js", "tokens.js", "group.js", "form.js", "browser.js", "main.js")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart in the page."""

    svg: Markup
    legend: Sequence[Series]
    about: str


@dataclass(frozen=True, slots=True)
class Responses:
    """What the page says about the responses in it."""

    groups: int
    count: int
    notes: tuple[str, ...]


def render(report: ReportData, payload: Mapping[str, Any], responses: Responses) -> str:
    """The page.

    Args:
        payload: the responses (`reasoner.report.responses.Browsable`).
    """
    environment = Environment(
        loader=PackageLoader("reasoner.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(_helpers())
    style = "\n".join(_asset(name) for name in ("plot.css", "style.css"))
    script = '"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS)
    runs = [run.run for run in report.runs]
    several, first = len(runs) > 1, report.runs[0]
    title = " / ".join(dict.fromkeys(str(run.config.get("task", run.name)) for run in runs))
    page = environment.get_template("page.html").render(
        report=report,
        first=first,
        several=several,
        title=title,
        subtitle=f"{len(runs)} runs" if several else first.run.config.get("title", ""),
        tiles=() if several else tiles(first),
        overview=overview(report) if several else None,
        evaluated=any(run.evaluations for run in runs),
        timed=any(run.seconds for run in report.runs),
        responses=responses,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=pack({"charts": _hover(report), "runs": [run.name for run in runs], **payload}),
        version=reasoner.__version__,
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    return page.lstrip()


def _helpers() -> dict[str, Any]:
    """The functions and constants of the template, which are the same for every report."""
    return {
        "about_curves": ABOUT_CURVES,
        "about_evaluation": ABOUT_EVALUATION,
        "shown_units": ("tokens", "tokens/s", "s", "GiB", "nats", "count"),
        "draw": _draw,
        "stage_chart": _stage_chart,
        "timeline": _timeline,
        "figures": _figures,
        "times": _times,
        "ended": ended,
        "versions": versions,
        "short": short,
        "when": when,
        "estimated": lambda estimate: _interval_element(_estimate_text(estimate)),
        "environment": lambda run: hide_home_folder(json.dumps(run.environment, indent=2, ensure_ascii=False)),
        "hide_home_folder": hide_home_folder,
        "resumptions": resumptions,
        "shortened": shortened,
        "longest_example": LONGEST_EXAMPLE,
    }


def pack(value: Any) -> str:
    """JSON, gzip, base64: characters that mean nothing to HTML."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _asset(name: str) -> str:
    return (files("reasoner.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {allowed(script)}; style-src {allowed(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _draw(panel: Panel) -> Drawing:
    return Drawing(Markup(svg.lines(panel)), panel.series if len(panel.series) > 1 else (), panel.about)


def _stage_chart(chart: Bars) -> Markup:
    return Markup('<figure class="chart"><figcaption>Seconds by step</figcaption>{}</figure>').format(
        Markup(svg.bars(chart))
    )


def _timeline(report: RunReport) -> Markup:
    count = len(report.timeline)
    return Markup(
        '<figure class="chart timeline"><figcaption>Who worked when <span class="unit">{}, seconds</span>'
        '</figcaption><div class="scroll">{}</div></figure>'
    ).format(f"the last {count} steps" if count > 1 else "the last step", Markup(timeline_chart(report.timeline)))


def _figures(comparison: EvaluationComparison) -> list[dict[str, Any]]:
    """The table's rows; changes are drawn on one scale, those in tokens on another."""
    reach: dict[bool, float] = {}
    for row in comparison.rows:
        ends = (row.difference.low or 0.0, row.difference.high or 0.0, row.difference.change)
        tokens = row.difference.unit == "tokens"
        reach[tokens] = max(reach.get(tokens, 1e-9), *map(abs, ends))
    return [
        {
            "name": short(row.name),
            "tone": row.tone,
            "before": _interval_element(_estimate_text(row.before)),
            "after": _interval_element(_estimate_text(row.after)),
            "change": _interval_element(interval(change.change, change.low, change.high, change.unit, signed=True)),
            "drawing": Markup(svg.change(change, reach[change.unit == "tokens"])),
            "moved": f"{change.rose} / {change.problems - change.rose - change.fell} / {change.fell}",
            "p": p_of(change),
        }
        for row in comparison.rows
        for change in [row.difference]
    ]


def _estimate_text(estimate: Estimate) -> str:
    return interval(estimate.value, estimate.low, estimate.high, estimate.unit)


def _interval_element(figure: str) -> Markup:
    """`4.2% [2.1, 8.0]` with its interval as an element: on a narrow page it has a line of its own."""
    value, bracket, bounds = figure.partition(" [")
    markup = Markup('{} <span class="bounds">[{}</span>').format(value, bounds)
    return markup if bracket else Markup("{}").format(value)


def _times(report: RunReport) -> list[dict[str, Any]]:
    colours = {part.label: part.colour for part in report.stages.parts} if report.stages else {}
    total = sum(report.seconds.values())
    rows = [
        {
            "name": phase,
            "time": duration(seconds),
            "share": f"{100 * seconds / total:.0f}%",
            "colour": colours.get(phase),
        }
        for phase, seconds in report.seconds.items()
    ]
    return [*rows, {"name": "total", "time": duration(total), "share": "", "colour": None}]


def _hover(report: ReportData) -> dict[str, Any]:
    """The numbers behind the charts, for what is shown under the pointer."""
    return {
        panel.key: {
            "unit": panel.unit,
            "x": [x.low, x.high, x.start, x.end],
            "series": [_numbers(curve) for curve in curves],
        }
        for panel in report.charts
        for curves in [[thin(curve) for curve in panel.series]]
        for x in [svg.steps_of(curves)]
    }


def _numbers(curve: Series) -> dict[str, Any]:
    return {
        "label": curve.label,
        "colour": curve.colour % svg.COLOURS,
        "steps": _json_numbers(curve.steps),
        "values": _json_numbers(curve.values),
        "half": _json_numbers(curve.half),
        "low": _json_numbers(curve.low),
        "high": _json_numbers(curve.high),
    }


def _json_numbers(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if isfinite(value) else None for value in values]
