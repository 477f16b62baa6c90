"""Which charts a report has: metrics that belong together, over the steps of one run or of several.

With one run a panel's curves are its metrics (reward and its components); with several every metric gets a panel of its
own and its curves are the runs. Metrics that no row below names are shown too, under "Everything else".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reasoner.monitoring.lines import figure, label
from reasoner.monitoring.metrics import MetricUnit, find
from reasoner.report.charts.series import Series, half_width, series
from reasoner.runs.folder import Evaluated
from reasoner.runs.reader import SavedRun
from reasoner.runs.rollouts import GroupIndex

PanelSection = Literal["curves", "objective", "other"]
Spread = Mapping[int, Sequence[GroupIndex]]
"""step -> its groups, for intervals"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart."""

    key: str
    """unique in the report; the name of its file"""
    title: str
    unit: MetricUnit
    series: tuple[Series, ...]
    about: str = ""
    """what is measured"""


@dataclass(frozen=True, slots=True)
class _Row:
    section: PanelSection
    title: str
    """`{term}` stands for the name of a term"""
    names: tuple[str, ...]
    """patterns of metrics; of `<source>` and `<term>` there can be several"""
    when_all_zero: bool = True
    """whether the chart is worth its place when every value is 0"""


_ROWS = (
    _Row("curves", "Reward", ("reward/mean", "reward/<source>/mean")),
    _Row("curves", "Response length", ("response/length_mean",)),
    _Row("curves", "Finished responses", ("response/finished",)),
    _Row("curves", "Groups without credit", ("groups/no_credit",)),
    _Row("curves", "Curriculum", ("curriculum/tried", "curriculum/resting", "curriculum/pass_rate")),
    _Row("curves", "Entropy", ("response/entropy", "entropy")),
    _Row("curves", "Gap between sampler and learner", ("gap/mean",)),
    _Row("curves", "Failed and abstained", ("reward/abstained", "reward/<source>/failed"), False),
    _Row("curves", "Tool calls per response", ("tools/calls",)),
    _Row("curves", "Calls and results that failed", ("tools/malformed", "tools/failed", "environment/failed")),
    _Row("curves", "Idle share of a step", ("idle/sampler", "idle/learner")),
    _Row("curves", "Sampling speed", ("tokens_per_s/sample",)),
    _Row("curves", "Memory", ("memory/rss_gib", "memory/device_gib")),
    _Row("objective", "{term}: mass of the weights", ("term/<term>/positive", "term/<term>/negative")),
    _Row("objective", "{term}: tokens without weight", ("term/<term>/zero_share", "term/<term>/clipped_share")),
    _Row("objective", "{term}: effective sample size", ("term/<term>/ess",)),
    _Row("objective", "{term}: loss", ("term/<term>/loss",)),
    _Row("objective", "{term}: KL to the reference", ("term/<term>/kl",), False),
    _Row("objective", "{term}: ratio to the old policy", ("term/<term>/ratio_mean", "term/<term>/ratio_max")),
    _Row("objective", "{term}: preference accuracy", ("term/<term>/accuracy",), False),
    _Row("objective", "{term}: preference margin", ("term/<term>/margin",), False),
    _Row("objective", "Gradient norm", ("update/grad_norm",)),
    _Row("objective", "Learning rate", ("update/learning_rate",)),
    _Row("objective", "Critic: explained variance", ("critic/explained_variance",)),
)
_SHORT = {
    "memory/rss_gib": "processes",
    "memory/device_gib": "GPU",
    "response/entropy": "estimated",
    "entropy": "exact",
    "tools/malformed": "calls that could not be made",
    "tools/failed": "results that are errors",
    "environment/failed": "environments that failed",
    "idle/sampler": "sampler",
    "idle/learner": "learner",
}
_HIDDEN = re.compile(r"step|time/.*")
"""the stage times have a section of their own"""


def panels(runs: Sequence[SavedRun], spreads: Sequence[Spread]) -> dict[PanelSection, list[Panel]]:
    """All charts of metrics, by section. `spreads`: of each run."""
    sections: dict[PanelSection, list[Panel]] = {"curves": [], "objective": [], "other": []}
    names = list(dict.fromkeys(name for run in runs for metrics in run.metrics for name in metrics))
    remaining = [name for name in names if not _HIDDEN.fullmatch(name)]
    for row in _ROWS:
        for term, members in _members(row, names):
            remaining = [name for name in remaining if name not in members]
            title = row.title.format(term=term)
            all_panels = list(_panels(title, members, runs, spreads))
            sections[row.section] += [panel for panel in all_panels if row.when_all_zero or not _all_zero(panel)]
    for name in remaining:
        sections["other"] += _panels(name, [name], runs, spreads)
    keyed = iter(_add_file_names([panel for members_ in sections.values() for panel in members_]))
    return {section: [next(keyed) for _ in members_] for section, members_ in sections.items()}


def evaluation_panels(runs: Sequence[SavedRun]) -> list[Panel]:
    """A chart of every figure that was evaluated in between: before and after alone are in the table."""
    names = dict.fromkeys(e.name for run in runs for at in run.evaluations for e in at.evaluation.figures)
    result = []
    for name in names:
        curves = [_evaluation_series(run.name, colour, run.evaluations, name) for colour, run in enumerate(runs)]
        if any(len(curve.steps) > 2 for curve in curves):
            unit = next(
                estimate.unit
                for run in runs
                for at in run.evaluations
                if (estimate := at.evaluation.find(name)) is not None
            )
            title = f"Evaluation: {figure(name)}"
            result.append(Panel("", title, unit, tuple(curve for curve in curves if curve.steps)))
    return _add_file_names(result)


def _members(row: _Row, names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The row's metrics that there are, by term; without terms, under an empty name."""
    by_term: dict[str, list[str]] = {}
    for pattern in row.names:
        regular = re.escape(pattern).replace("<source>", "(?:.+)").replace("<term>", "(?P<term>.+)")
        for name in names:
            if match := re.fullmatch(regular, name):
                by_term.setdefault(match.groupdict().get("term") or "", []).append(name)
    yield from by_term.items()


def _panels(title: str, names: Sequence[str], runs: Sequence[SavedRun], spreads: Sequence[Spread]) -> Iterator[Panel]:
    """One chart of all names for one run; for several runs a chart per name."""
    if len(runs) == 1:
        curves = [_curve(_short(name), n, runs[0], spreads[0], name) for n, name in enumerate(names)]
        yield Panel("", title, _unit(names[0]), tuple(curves), _about(names))
        return
    for name in names:
        curves = [
            _curve(run.name, colour, run, spread, name)
            for colour, (run, spread) in enumerate(zip(runs, spreads, strict=True))
            if any(name in metrics for metrics in run.metrics)
        ]
        own = title if len(names) == 1 else f"{title}: {_short(name)}"
        yield Panel("", own, _unit(name), tuple(curves), _about([name]))


def _curve(text: str, colour: int, run: SavedRun, spread: Spread, name: str) -> Series:
    curve = series(text, colour, run.metrics, name)
    half_widths = {
        float(step): half_width([group.means[name] for group in groups if name in group.means])
        for step, groups in spread.items()
    }
    if not any(map(math.isfinite, half_widths.values())):
        return curve
    return replace(curve, half=tuple(half_widths.get(step, math.nan) for step in curve.steps))


def _evaluation_series(text: str, colour: int, evaluations: Sequence[Evaluated], name: str) -> Series:
    points = [(at.step, estimate) for at in evaluations if (estimate := at.evaluation.find(name)) is not None]
    return Series(
        text,
        colour,
        steps=tuple(float(step) for step, _ in points),
        values=tuple(estimate.value for _, estimate in points),
        low=tuple(math.nan if estimate.low is None else estimate.low for _, estimate in points),
        high=tuple(math.nan if estimate.high is None else estimate.high for _, estimate in points),
    )


def _all_zero(panel: Panel) -> bool:
    return all(value == 0 for curve in panel.series for value in curve.finite)


def _short(name: str) -> str:
    """A metric's name beside its panel's title: what tells it from the others."""
    if name.startswith(("term/", "curriculum/")):
        return name.rpartition("/")[2].replace("_", " ")
    if name in _SHORT:
        return _SHORT[name]
    return label(name).removesuffix("/failed")


def _unit(name: str) -> MetricUnit:
    try:
        return find(name).unit
    except KeyError:  # written by another version, or by a plugin
        return "number"


def _about(names: Sequence[str]) -> str:
    """The meaning of the metrics, from the table that documents them."""
    meanings = []
    for name in names:
        try:
            meanings.append(find(name).meaning)
        except KeyError:
            continue
    return "; ".join(dict.fromkeys(meanings))


def _add_file_names(all_panels: Sequence[Panel]) -> list[Panel]:
    """Panels with a file name each: the title in lower case letters, digits and dashes."""
    taken: dict[str, int] = {}
    keyed = []
    for panel in all_panels:
        stem = re.sub(r"[^a-z0-9]+", "-", panel.title.lower()).strip("-")[:60] or "chart"
        taken[stem] = taken.get(stem, 0) + 1
        keyed.append(replace(panel, key=stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"))
    return keyed
