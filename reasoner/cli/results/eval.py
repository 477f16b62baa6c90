"""`reasoner eval`: evaluate models on tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.errors import UserError
from reasoner.io.safe_text import printable
from reasoner.io.serialization import to_json
from reasoner.loading import load_config
from reasoner.processes.lifetime import guard_processes, interruptible


def evaluate(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK...", help="Names of tasks (`reasoner tasks list`), or TOML files of your own."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to evaluate: a folder, hub id or embedded:NAME. Can be given several times: each is "
            "compared with "
            "the first. Default: the task's own model."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Responses per problem (evaluation.samples).")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature, 0 for greedy decoding (evaluation.temperature).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Resume an interrupted evaluation, or show a finished one."),
    ] = None,
    profile: options.Profile = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder in which the evaluation's folder is created (run.output).")
    ] = None,
    config: options.ConfigFiles = None,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Evaluate models on tasks, and compare them on the same problems.

    Examples:

    reasoner eval math-gsm8k --model runs/20260101-120000-math-gsm8k/model

    reasoner eval math-500 aime24 --model BASE --model runs/RUN/model --samples 8 --temperature 0.7

    reasoner eval --resume runs/20260101-120000-eval-math-500 --json
    """
    values = (tasks, model, samples, temperature, profile, output, config, sets, plugin)
    if resume is not None and any(value not in (None, []) for value in values):
        raise UserError(
            "--resume continues an evaluation with its own configuration; it takes no task and no option but --json."
        )
    if resume is None and not tasks:
        raise UserError(
            "nothing to evaluate. Name a TASK (`reasoner tasks list`), or an evaluation to resume: --resume FOLDER."
        )
    arguments = [*(sets or ()), *_arguments(samples, temperature, output)]
    resolved = [
        load_config(task, profile, config or (), [*arguments, *_model(path)], plugin or ())
        for task in tasks or ()
        for path in model or (None,)
    ]
    from reasoner.benchmarks import session
    from reasoner.benchmarks.results import as_json
    from reasoner.benchmarks.table import print_results

    console = out()
    progress = redirect_stdout(sys.stderr) if json_ else nullcontext()  # standard output is for the results alone
    with interruptible(), guard_processes(), progress:
        folder, results = session.start(resolved) if resume is None else session.resume(resume)
    if json_:
        typer.echo(printable(to_json(as_json(folder, results), indent=2)))
    else:
        print_results(console, folder, results)


def _arguments(samples: int | None, temperature: float | None, output: Path | None) -> Iterator[str]:
    if samples is not None:
        yield f"evaluation.samples={samples}"
    if temperature is not None:
        yield f"evaluation.temperature={temperature}"
    if output is not None:
        yield f"run.output={json.dumps(str(output), ensure_ascii=False)}"


def _model(path: str | None) -> Iterator[str]:
    if path is not None:
        yield f"model.path={json.dumps(path, ensure_ascii=False)}"
