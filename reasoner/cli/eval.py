"""`reasoner eval`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reasoner.cli import options
from reasoner.preflight import ready
from reasoner.processes import guard_processes, interruptible
from reasoner.settings import load_config


def evaluate(
    task: options.Task,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub id or embedded model (model.path); without it: the task's own.")
    ] = None,
    profile: options.Profile = None,
    config: options.ConfigFile = None,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Evaluate a model on a task's evaluation data.

    Example: reasoner eval math-gsm8k --model runs/20260101-120000-math-gsm8k/model
    """
    arguments = list(sets or ())
    if model is not None:
        arguments.append(f"model.path={json.dumps(model, ensure_ascii=False)}")
    resolved = ready(load_config(task, profile, config, arguments, plugin or ()), training=False)
    from reasoner.opening import open_evaluator

    with interruptible(), guard_processes(), open_evaluator(resolved) as evaluator:
        evaluator.evaluate(0, "without training")
