"""Reports as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from reasoner.errors import DataError, UserError
from reasoner.io.atomic_files import replace_text
from reasoner.io.safe_text import printable
from reasoner.report import TOKENS
from reasoner.report.charts import svg
from reasoner.report.choose import choose
from reasoner.report.collect import ReportData, collect
from reasoner.report.page import Responses, render
from reasoner.report.pieces import Pieces, load_pieces
from reasoner.report.responses import Browsable
from reasoner.report.text import as_markdown
from reasoner.runs.reader import SavedRun

Format = Literal["html", "md"]
Announce = Callable[[str], None]


def report_file(folders: Sequence[Path], format_: Format) -> Path:
    """Where a report is written unless told otherwise: `report.html` or `report.md` of the first run."""
    return folders[0] / f"report.{format_}"


def make_report(
    folders: Sequence[Path],
    format_: Format = "html",
    tokens: int = TOKENS,
    progress: Announce = lambda text: None,
) -> tuple[ReportData, str]:
    """The report of the runs, the others compared with the first, and its text.

    Args:
        tokens: response tokens that the HTML page may hold; beyond that, whole groups are left out.

    Raises:
        DataError: a folder is no run's, or cannot be read.
    """
    report = collect(folders, progress)
    text = as_markdown(report) if format_ == "md" else _html(report, tokens, progress)
    return report, printable(text)  # both are looked at with `cat` and `less`, too; HTML has no control characters


def save(text: str, output: Path) -> None:
    """Write a report to a file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, text)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}.") from error


def write_plots(report: ReportData, folder: Path) -> list[Path]:
    """Write every chart as an SVG file.

    Raises:
        UserError: the folder cannot be written.
    """
    charts = {panel.key: svg.lines(panel, standalone=True) for panel in report.charts}
    for run_report in report.runs:
        if run_report.stages:
            key = run_report.stages.key if len(report.runs) == 1 else f"{run_report.stages.key}-{run_report.index + 1}"
            charts[key] = svg.bars(run_report.stages, standalone=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, text in charts.items():
            replace_text(folder / f"{key}.svg", text)
    except OSError as error:
        raise UserError(f"--plots {folder} cannot be written: {error.strerror or error}.") from error
    return [folder / f"{key}.svg" for key in charts]


def _pieces(run: SavedRun) -> tuple[Pieces | None, str]:
    """The run's tokenizer, and why it cannot be read; empty: it can, or is not here."""
    try:
        return load_pieces(run.folder, run.config), ""
    except DataError as error:
        return None, str(error)


def _html(report: ReportData, tokens: int, progress: Announce) -> str:
    browsable = Browsable()
    share = tokens // len(report.runs)
    total = 0
    notes = []
    for index, run_report in enumerate(report.runs):
        chosen = choose(run_report.files, share)
        progress(f"packing {sum(one.group.responses for one in chosen):,} responses of {run_report.run.name}")
        pieces, why = _pieces(run_report.run) if chosen else (None, "")
        if why:
            notes.append(f"{why}; there are no tokens to colour.")
        elif chosen and pieces is None:
            notes.append(
                f"{run_report.run.name}: its tokenizer is not on this machine, so there are no tokens to colour."
            )
        total += sum(group.responses for file in run_report.files for group in file.groups)
        browsable.add(index, chosen, pieces)
    count = sum(len(group["responses"]) for group in browsable.groups)
    if count < total:
        notes.append(
            f"Showing {count:,} of {total:,} responses: whole groups, spread over the run, with at most {tokens:,} "
            "tokens together. `reasoner report RUN --tokens N` chooses how many."
        )
    responses = Responses(len(browsable.groups), count, (*notes, *browsable.notes))
    return render(report, browsable.payload, responses)
