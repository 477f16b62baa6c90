"""`reasoner export`: a run's model as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.errors import UserError
from reasoner.monitoring.format import size
from reasoner.runs.find import find_run
from reasoner.runs.model import Which, run_model
from reasoner.runs.reader import read_run


def export(
    run: options.RunName,
    to: Annotated[Path, typer.Option(metavar="DIR", help="New folder to write the model to.")],
    step: Annotated[
        str,
        typer.Option(
            metavar="N|last|best",
            help="Which weights: the last ones, those with the best evaluation, or those after step N.",
        ),
    ] = "last",
) -> None:
    """Write a run's trained model as a Hugging Face folder with a model card.

    Examples:

    reasoner export 20260101-12 --to my-model

    reasoner export 20260101-12 --step best --to my-model
    """
    from reasoner.report.model_card import export as write

    saved = read_run(find_run(run))
    model = run_model(saved, _parse_step(step))
    written = write(saved, model, to)
    ended = "" if saved.state == "finished" else f", {saved.state}"
    what = f"after step {model.step} of {saved.planned_steps}{ended} ({model.folder})"
    out().print(Text(f"{to}: {size(written)}, {what}"), soft_wrap=True)


def _parse_step(step: str) -> Which:
    if step in ("last", "best"):
        return step  # type: ignore[return-value]
    if step.isdecimal():
        return int(step)
    raise UserError(f"--step {step}: must be the number of a step, last or best.")
