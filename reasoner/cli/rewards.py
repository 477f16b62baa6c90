"""`reasoner rewards`: what can verify."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from reasoner import plugins as hooks
from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.rewards_api import RewardSource

app = typer.Typer(help="List reward sources.", no_args_is_help=True)


@app.command("list")
def list_rewards(plugin: options.Plugins = None) -> None:
    """All registered reward sources with their deadline and options.

    Example: reasoner rewards list --plugin my_verifier.py
    """
    sources = hooks.reward_sources(hooks.build_manager(plugin or ()))
    table = Table("source", "what it rewards", "s/call", "options", box=None, pad_edge=False)
    for name, source in sources.items():
        table.add_row(name, Text(source.summary), f"{source.timeout_s:g}", Text(_options(source)))
    out().print(table)


def _options(source: RewardSource) -> str:
    fields = source.options.model_fields.items()
    return ", ".join(name if field.is_required() else f"{name} = {field.default!r}" for name, field in fields) or "none"
