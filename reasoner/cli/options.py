"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoner.sandbox.permission import FLAG, permit_unsandboxed

TaskOption = Annotated[
    list[str],
    typer.Argument(
        metavar="TASK[=WEIGHT]...",
        help="Name of a task (`reasoner tasks list`), or a TOML file of your own; several, with their weights, are a "
        "mixture.",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Profile of the task, for example laptop or gpu. Default: chosen by whether there is an NVIDIA GPU."
    ),
]
ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file whose values override task and profile; a run folder's config.toml repeats that run. Can "
        "be given "
        "several times: later files override earlier ones.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One value that overrides all others. Can be given several times."),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file with hooks. Can be given several times."),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder: a path, or the beginning of a name below runs/.")
]
RunNames = Annotated[
    list[str],
    typer.Argument(metavar="RUN", help="Run folders: paths, or beginnings of names below runs/."),
]
Unsandboxed = Annotated[
    bool,
    typer.Option(
        FLAG,
        help="Run generated programs without a sandbox if none is available: they can do whatever you can.",
        callback=permit_unsandboxed,
    ),
]
"""Takes effect in its callback, before the command runs."""
