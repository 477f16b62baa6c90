"""`reasoner rewards`: list and show reward sources; `test` and `bench` are in `reward_checks.py`, `attack` in
`reward_attack.py`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tomli_w
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.cli.inspect.reward_attack import attack_source
from reasoner.cli.inspect.reward_checks import bench_cases, score_references
from reasoner.cli.inspect.reward_options import LISTING, Name
from reasoner.plugins import manager as hooks
from reasoner.plugins.options import field_documents, meanings_of, prose_of
from reasoner.plugins.reward_api import RewardSource

app = typer.Typer(help="List, show, test, measure and attack reward sources.", no_args_is_help=True)

CALLS = {
    "response": "sees one response",
    "group": "sees all responses to a problem",
    "batch": "sees responses to any problems",
}
"""granularity in words"""
ASPECTS = {"answer": "the answer", "form": "the form, whatever the answer", "text": "a measure of the text"}
"""aspect in words"""


@app.command("list")
def list_rewards(plugin: options.Plugins = None) -> None:
    """List all registered reward sources with their deadline and options.

    Example: reasoner rewards list --plugin my_verifier.py
    """
    sources = hooks.reward_sources(hooks.build_manager(plugin or ()))
    table = Table("source", "what it rewards", "s/call", "options", box=None, pad_edge=False)
    for name, source in sources.items():
        table.add_row(name, Text(source.summary), f"{source.timeout_s:g}", Text(_options(source)))
    out().print(table)


@app.command("show")
def show(name: Name, plugin: options.Plugins = None) -> None:
    """Show what a source rewards, its options, where it comes from, and the TOML that uses it.

    Example: reasoner rewards show math
    """
    manager = hooks.build_manager(plugin or ())
    source = hooks.find("reward source", name, hooks.reward_sources(manager), LISTING)
    console = out()
    console.print(Text(name, style="bold"))
    console.print(Text(prose_of(source.function) or "(no docstring)"))
    facts = Table.grid(padding=(0, 2))
    aspect = ASPECTS[source.aspect] if isinstance(source.aspect, str) else "the answer or the form, as its options say"
    facts.add_row("rewards", aspect)
    facts.add_row("one call", CALLS[source.granularity])
    facts.add_row("deadline", f"{source.timeout_s:g} seconds per call")
    facts.add_row("workers", "shared" if source.workers is None else f"{source.workers} of its own")
    facts.add_row("retries", str(source.retries))
    origin = next(plugin.origin for plugin in hooks.registrations(manager) if name in plugin.rewards)
    facts.add_row("from", Text(origin))
    console.print()
    console.print(facts)
    console.print(Text(f"file      {_place(source)}"), soft_wrap=True)
    console.print(Text("\nOptions", style="bold"))
    print_options(console, source.options, meanings_of(source.function))
    console.print(Text("\nIn a task or --config file", style="bold"))
    console.print(Text(_example(source)), soft_wrap=True)


app.command("test")(score_references)
app.command("bench")(bench_cases)
app.command("attack")(attack_source)


def _options(source: RewardSource) -> str:
    fields = source.options.model_fields.items()
    return (
        ", ".join(name if field.is_required() else f"{name} = {_default(field)!r}" for name, field in fields) or "none"
    )


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def print_options(
    console: Console, options: type[BaseModel], meanings: Mapping[str, str] = MappingProxyType({})
) -> None:
    """As they are declared, each with its meaning below.

    Args:
        meanings: by name, of those whose field does not say it.
    """
    documents = field_documents(options)
    for name, field in options.model_fields.items():
        default = ", needed" if field.is_required() else f" = {_default(field)!r}"
        console.print(Padding(Text(f"{name}: {_type(field.annotation)}{default}"), (0, 0, 0, 2)))
        if meaning := documents.get(name) or meanings.get(name, ""):
            console.print(Padding(Text(" ".join(meaning.split())), (0, 0, 0, 6)))
    if not options.model_fields:
        console.print("  none")


def _type(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _place(source: RewardSource) -> str:
    function = inspect.unwrap(source.function)
    return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"


def _example(source: RewardSource) -> str:
    """A `[[rewards]]` entry with the defaults of all options."""
    fields = source.options.model_fields.items()
    defaults = {name: _default(field) for name, field in fields if not field.is_required()}
    options = {
        name: value for name, value in defaults.items() if isinstance(value, (bool, int, float, str, list, tuple))
    }
    entry: dict[str, Any] = {"source": source.name, "weight": 1.0}
    text = "[[rewards]]\n" + tomli_w.dumps(entry)
    needed = {name: _type(field.annotation) for name, field in fields if field.is_required()}
    text += "".join(f"# options.{name} is needed: {type_}\n" for name, type_ in needed.items())
    return text + (f"[rewards.options]\n{tomli_w.dumps(options)}" if options else "")
