"""`reasoner export`: a run's model to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.reporting.format import size
from reasoner.runs.find import find_run
from reasoner.runs.saved import read_run


def export(
    run: options.RunName,
    to: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model.")],
) -> None:
    """Write a run's trained model as a Hugging Face folder with a model card.

    Example: reasoner export 20260101-12 --to my-model
    """
    from reasoner.export import export as write

    written = write(read_run(find_run(run)), to)
    out().print(Text(f"{to}: {size(written)}"), soft_wrap=True)
