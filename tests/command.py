"""What a command printed and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from typer.main import get_command

from reasoner.cli.app import app

COMMAND = get_command(app)
"""`reasoner`, built once: it takes longer than many a command"""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]
"""`(*arguments) -> Outcome` of `reasoner ARGUMENTS`: the fixture `cli`"""
