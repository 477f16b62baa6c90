"""`reasoner environments`: list and show tools and environments, and play with one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import pluggy
import tomli_w
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.cli.inspect.reward_options import parse_table
from reasoner.cli.inspect.rewards import print_options
from reasoner.config import EnvironmentConfig
from reasoner.errors import UserError, nearest
from reasoner.plugins import manager as hooks
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.options import prose_of
from reasoner.plugins.tool_api import Tool
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.records import Message, Problem, ToolCall

if TYPE_CHECKING:
    from reasoner.testing.environment_contract import Episode

app = typer.Typer(help="List and show tools and environments, and play with one.", no_args_is_help=True)

LISTING = "reasoner environments list"
EntryName = Annotated[str, typer.Argument(help=f"Name of a tool or an environment (`{LISTING}`).")]


@app.command("list")
def list_environments(plugin: options.Plugins = None) -> None:
    """List all registered environments, with the tools that they bring, and all tools.

    Example: reasoner environments list --plugin my_game.py
    """
    manager = hooks.build_manager(plugin or ())
    table = Table("name", "kind", "what it does", "s/call", "arguments or tools", box=None, pad_edge=False)
    for name, kind in hooks.environments(manager).items():
        brings = ", ".join(kind.tools) or "none"
        table.add_row(name, "environment", Text(kind.summary), f"{kind.timeout_s:g}", Text(brings))
    for name, tool in hooks.tools(manager).items():
        summary = tool.description.partition(". ")[0].removesuffix(".")
        arguments = ", ".join(tool.arguments.model_fields) or "none"
        table.add_row(name, "tool", Text(summary), f"{tool.timeout_s:g}", Text(arguments))
    out().print(table)


@app.command("show")
def show(name: EntryName, plugin: options.Plugins = None) -> None:
    """Show what a tool or an environment does, its options, what the policy is told, and the TOML that uses it.

    Example: reasoner environments show python
    """
    manager = hooks.build_manager(plugin or ())
    item = _find(name, manager)
    console = out()
    console.print(Text(name, style="bold"))
    console.print(Text(item.description if isinstance(item, Tool) else prose_of(item.made_by)))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("kind", "tool" if isinstance(item, Tool) else "environment")
    facts.add_row("deadline", f"{item.timeout_s:g} seconds per call")
    facts.add_row("from", Text(_origin(manager, item)))
    console.print()
    console.print(facts)
    for tool in [item] if isinstance(item, Tool) else item.tools.values():
        _print_schema(console, tool)
    console.print(Text("\nOptions", style="bold"))
    print_options(console, item.options)
    console.print(Text("\nIn a task or --config file", style="bold"))
    console.print(Text(_example(item)), soft_wrap=True)


@app.command("test")
def play_script(
    name: EntryName,
    arguments: Annotated[
        str | None,
        typer.Option(metavar="TOML", help="Arguments of one call of a tool: '{expression = \"6 * 7\"}'."),
    ] = None,
    turn: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What the policy says in a turn of an environment; give one for each turn."),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="TOML", help='Problem that an environment starts with: \'{question = "..", answer = "7"}\'.'
        ),
    ] = None,
    option_values: Annotated[
        str | None, typer.Option("--options", metavar="TOML", help="Options as a TOML table: '{max_digits = 50}'.")
    ] = None,
    plugin: options.Plugins = None,
) -> None:
    """Call a tool, or play with an environment, in the same worker processes that a run uses, and show what comes back.

    The exit code is 1 when the tool has no result or the environment fails. `reasoner plugins check` runs the contract.

    Examples:

    reasoner environments test calculator --arguments '{expression = "6 * 7"}'

    reasoner environments test guess-number --problem '{answer = "7", low = 1, high = 9}' --turn 5 --turn 7
    """
    from reasoner.environments import open_environments
    from reasoner.testing.environment_contract import play, scripted

    files = list(plugin or ())
    item = _find(name, hooks.build_manager(files))
    own_options = parse_table("--options", option_values)
    if isinstance(item, Tool):
        if turn or problem:
            raise UserError(f"{name!r} is a tool: give the arguments of a call, --arguments '{{...}}'.")
        config = EnvironmentConfig(tools=[name], tool_options={name: own_options} if own_options else {})
        turns = [scripted("", ToolCall(name, parse_table("--arguments", arguments)))]
    else:
        if arguments:
            raise UserError(f"{name!r} is an environment: say what the policy writes, --turn TEXT for each turn.")
        config = EnvironmentConfig(name=name, options=own_options, max_turns=max(8, len(turn or ())))
        turns = [scripted(text) for text in turn or ()]
    with interruptible(), guard_processes(), open_environments(config, files, print, print) as service:
        episode = play(service, problem_of(parse_table("--problem", problem)), turns)
    if _print_episode(out(), episode, ends=not isinstance(item, Tool)):
        raise typer.Exit(1)


def _print_episode(console: Console, episode: Episode, *, ends: bool) -> bool:
    """Print what the policy wrote and what came back; True: the environment or a tool failed.

    Args:
        ends: say after which turn the response ends.
    """
    failed = bool(episode.failure)
    for message in episode.opening:
        _print_line(console, "prompt", message.content)
    for played in episode.turns:
        if played.turn.text:
            _print_line(console, "policy", played.turn.text)
        if (seen := played.observation) is not None:
            for message, error in zip(seen.messages, seen.errors, strict=True):
                failed = failed or bool(error) or any(call.error for call in played.turn.calls)
                _print_line(console, message.name or message.role, message.content)
            facts = [f"reward {seen.reward:g}"] if seen.reward is not None else []
            facts += ["the response ends"] if seen.done and ends else []
            if facts:
                console.print(Text(f"  ({', '.join(facts)})"))
    if episode.failure:
        console.print(Text(f"The environment failed: {episode.failure}", style="bold red"))
    return failed


def problem_of(row: dict[str, Any]) -> Problem:
    """The problem of a row; `question` and `answer` as in data."""
    question = str(row.get("question", ""))
    return Problem("problem", (Message("user", question),), str(row.get("answer", "")), row)


def _print_line(console: Console, who: str, text: str) -> None:
    console.print(Text(f"{who}: ", style="bold").append(text, style="not bold"), soft_wrap=True)


def _find(name: str, manager: pluggy.PluginManager) -> Tool | EnvironmentKind:
    kinds, tools = hooks.environments(manager), hooks.tools(manager)
    if name in kinds:
        return kinds[name]
    if name in tools:
        return tools[name]
    hooks.find("tool", name, {}, LISTING) if hooks.broken(manager) else None
    raise UserError(f"there is no tool and no environment {name!r}.{nearest(name, [*kinds, *tools])} See `{LISTING}`.")


def _origin(manager: pluggy.PluginManager, item: Tool | EnvironmentKind) -> str:
    return next(
        plugin.origin
        for plugin in hooks.registrations(manager)
        if item.name in (plugin.tools if isinstance(item, Tool) else plugin.environments)
    )


def _print_schema(console: Console, tool: Tool) -> None:
    """What the policy is told."""
    console.print(Text(f"\nTool {tool.name}, as the policy sees it", style="bold"))
    console.print(Padding(Text(tool.description), (0, 0, 0, 2)))
    console.print(Padding(Text(json.dumps(tool.schema, indent=2, ensure_ascii=False)), (0, 0, 0, 2)))


def _example(item: Tool | EnvironmentKind) -> str:
    """An `[environment]` section with the defaults of all options."""
    defaults = {
        name: value
        for name, value in _defaults(item.options).items()
        if isinstance(value, (bool, int, float, str, list, tuple))
    }
    section: dict[str, Any] = {"tools": [item.name]} if isinstance(item, Tool) else {"name": item.name}
    if defaults:
        section |= {"tool_options": {item.name: defaults}} if isinstance(item, Tool) else {"options": defaults}
    return tomli_w.dumps({"environment": section})


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    fields = model.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}
