"""Arguments that commands about reward sources share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from reasoner.errors import ConfigError
from reasoner.io.parsing import parse_toml

LISTING = "reasoner rewards list"

Name = Annotated[str, typer.Argument(help=f"Name of a reward source (`{LISTING}`).")]
Options = Annotated[
    str | None,
    typer.Option("--options", metavar="TOML", help="Options of the source as a TOML table: '{extract = \"lenient\"}'."),
]
CasesHelp = 'JSON lines with labelled responses: {"reference": .., "response": .., "expected": 1.0}.'


def parse_options(text: str | None) -> dict[str, Any]:
    """The table of `--options`.

    Raises:
        ConfigError: it is not a TOML table.
    """
    return parse_table("--options", text, '{extract = "lenient"}')


def parse_table(option: str, text: str | None, example: str = "{name = 1}") -> dict[str, Any]:
    """The table that an option has; empty: it is not there.

    Raises:
        ConfigError: it is not a TOML table.
    """
    if text is None:
        return {}
    try:
        table = parse_toml(f"options = {text}")["options"]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: {error}. Write a table: '{example}'.") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{option} {text}: must be a table, '{example}', got {table!r}.")
    return table
