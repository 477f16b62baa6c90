"""`reasoner config`: the resolved configuration, and where each value comes from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.io.safe_text import printable
from reasoner.loading import load_config, settings_of, to_toml
from reasoner.loading.messages import show_key, show_value

app = typer.Typer(help="Show the resolved configuration.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Show the resolved configuration."""


@app.command("show")
def show(
    task: options.TaskOption,
    profile: options.Profile = None,
    config: options.ConfigFiles = None,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
    toml: Annotated[
        bool,
        typer.Option(
            "--toml", help="Print the complete configuration as TOML, a file for --config, without the origins."
        ),
    ] = False,
) -> None:
    """Show every key of the configuration with its value and the layer that set it.

    Layers, from the lowest: default, preset, task, profile, --config, --set. docs/configuration.md says what each key
    means.

    Example: reasoner config show math-gsm8k --profile laptop --set gro.preset=rloo
    """
    resolved = load_config(task, profile, config or (), sets or (), plugin or ())
    if toml:
        typer.echo(printable(to_toml(resolved.config)), nl=False)
        return
    table = Table("key", "value", "from", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].overflow = table.columns[2].overflow = "fold"
    for path, leaf in settings_of(resolved.config).items():
        key = show_key(path)
        origin = resolved.origins[key]
        style = "dim" if origin == "default" else ""
        table.add_row(key, Text(show_value(leaf.value)), origin, style=style)
    out().print(table)
