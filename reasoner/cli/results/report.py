"""`reasoner report`: one page about one run or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.errors import OutOfTimeError, UserError
from reasoner.io.terminal import SafeConsole
from reasoner.report import TOKENS
from reasoner.runs.find import find_run


def report(
    runs: options.RunNames,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write, or `-` for standard output. Default: in the first run's folder."
        ),
    ] = None,
    format_: Annotated[
        Literal["html", "md"], typer.Option("--format", help="One HTML page, or short Markdown text.")
    ] = "html",
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write every chart as an SVG file.")] = None,
    tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Most response tokens in the page; beyond that, whole groups are left out, evenly over the steps.",
        ),
    ] = TOKENS,
) -> None:
    """Write a report of one run, or of several side by side.

    Examples:

    reasoner report runs/20260101-120000-math-gsm8k

    reasoner report 20260101-12 20260101-15 --output compared.html
    """
    from reasoner.report.write import make_report, report_file, save, write_plots

    folders = [find_run(name) for name in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is named twice; name every run once.")
    target = output or report_file(folders, format_)
    with SafeConsole(stderr=True).status("reading") as status:
        of_report, text = make_report(folders, format_, tokens, status.update)
    if target == Path("-"):
        typer.echo(text, nl=False)  # it is printable
    else:
        save(text, target)
        out().print(Text(str(target)), soft_wrap=True)
    if plots is not None:
        files = write_plots(of_report, plots)
        out().print(Text(f"{len(files)} charts in {plots}"), soft_wrap=True)


@contextmanager
def leaving_report() -> Iterator[Callable[[Path], None]]:
    """Yields what takes note of a run folder; its report is written when the run has finished or failed, and not when
    it was interrupted or is out of time: then it has to end soon. A report that cannot be written is said, and changes
    nothing.
    """
    folders: list[Path] = []
    try:
        yield folders.append
    except (KeyboardInterrupt, SystemExit, OutOfTimeError):
        folders.clear()
        raise
    finally:
        for folder in folders:
            _leave_report(folder)


def _leave_report(folder: Path) -> None:
    from reasoner.report.write import make_report, report_file, save

    target = report_file([folder], "html")
    console = out()
    try:
        save(make_report([folder])[1], target)
    except Exception as error:  # whatever it is: the run itself is done, and its folder is whole
        console.print(Text(f"The report could not be written: {error or type(error).__name__}"))
        console.print(Text(f"  reasoner report {quote(str(folder))}"), soft_wrap=True)
        return
    console.print(Text("Report:", "bold"))
    console.print(Text(f"  {target}"), soft_wrap=True)
