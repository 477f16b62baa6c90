"""The report of a run as a value that a notebook shows."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

from reasoner.report.write import make_report, save

TOKENS = 200_000
"""response tokens in a report that a notebook shows, and keeps in its file: some 1 MB"""
HEIGHT = 720
"""pixels"""


@dataclass(frozen=True)
class Report:
    """The report of a run as one HTML page. The last expression of a notebook's cell, it is shown there."""

    html: str = field(repr=False)
    title: str

    def save(self, file: str | Path) -> Path:
        """Write the page to a file.

        Raises:
            UserError: it cannot be written.
        """
        save(self.html, Path(file))
        return Path(file)

    def _repr_html_(self) -> str:
        """A frame with the page in it, by itself: neither style nor scripts of the notebook and the page meet.

        Its scripts run in an origin of their own and reach nothing of the notebook. The base makes links to sections
        stay in the frame: an embedded page would look for them in the notebook's address.
        """
        page = self.html.replace("<head>", '<head>\n<base href="about:srcdoc">', 1)
        return (
            f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" title="{html.escape(self.title)}" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )


def report_of(folder: Path, tokens: int) -> Report:
    """The report of a run folder.

    Raises:
        DataError: it cannot be read.
    """
    report, text = make_report([folder], "html", tokens)
    return Report(text, f"report of {report.runs[0].run.name}")
