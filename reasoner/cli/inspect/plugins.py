"""`reasoner plugins`: list what is installed, create one, check the contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import pluggy
import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.cli.inspect.reward_options import CasesHelp, Options, parse_options
from reasoner.errors import ConfigError, UserError, nearest
from reasoner.plugins import manager as hooks
from reasoner.plugins.reward_api import RewardSource
from reasoner.plugins.scaffold import package_of, write_plugin
from reasoner.processes.lifetime import guard_processes, interruptible

if TYPE_CHECKING:
    from reasoner.testing.contract import Checklist

app = typer.Typer(help="List plugins, create one, and check its verifiers.", no_args_is_help=True)

REGISTERED = ("rewards", "tools", "environments", "tasks", "generators", "algorithms", "trackers")


@app.command("list")
def list_plugins(plugin: options.Plugins = None) -> None:
    """List every plugin with its file and what it registers; broken ones with their error.

    Example: reasoner plugins list --plugin my_verifier.py
    """
    console = out()
    for index, plugin_ in enumerate(hooks.registrations(hooks.build_manager(plugin or ()))):
        console.print(Text(("\n" if index else "") + plugin_.origin, style="bold"))
        if plugin_.error:
            console.print(Padding(Text(f"BROKEN: {plugin_.error}", style="red"), (0, 0, 0, 2)))
            continue
        console.print(Text(f"  file          {plugin_.file}"), soft_wrap=True)
        table = Table.grid(padding=(0, 2))
        for kind in REGISTERED:
            if names := getattr(plugin_, kind):
                table.add_row(f"  {kind:<12}", Text(", ".join(names), overflow="fold"))
        console.print(table if table.rows else "  registers nothing")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the distribution: lower-case words joined by '-'.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder in which the distribution's folder is created.")
    ] = Path(),
) -> None:
    """Create a distribution with one verifier and its test, ready for `pip install`.

    Example: reasoner plugins new unit-verifier
    """
    folder = write_plugin(name, output, hooks.reward_sources(hooks.build_manager()))
    console = out()
    console.print(Text(f"{folder}: start with {package_of(name)}/verifier.py"), soft_wrap=True)
    console.print(Text("\nInstall it into this environment, then test it:", style="bold"))
    for command in (f"pip install -e '{folder}[test]'", f"pytest {folder}", f"reasoner plugins check {name}"):
        console.print(Text(f"  {command}"), soft_wrap=True)


@app.command("check")
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FILE", help="Name of a plugin (`reasoner plugins list`), its file, or one reward source."
        ),
    ],
    cases: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=CasesHelp),
    ] = None,
    given: Options = None,
    plugin: options.Plugins = None,
) -> None:
    """Check that a plugin's reward sources keep the contract, in the same worker processes that a run uses.

    The exit code is 1 when something fails.

    Examples:

    reasoner plugins check my_verifier.py

    reasoner plugins check math --cases cases.jsonl
    """
    from reasoner.testing.cases import load_cases
    from reasoner.testing.contract import check_source

    files = list(plugin or ())
    if _is_file(name) and name not in files:
        files.append(name)
    sources = _sources_of(name, hooks.build_manager(files))
    known = load_cases(cases) if cases is not None else []
    own_options = parse_options(given)
    if own_options and len(sources) > 1:
        raise UserError(
            f"--options are those of one source, and {name!r} has {', '.join(source.name for source in sources)}: "
            "name one of them."
        )
    console = out()
    failed = []
    with interruptible(), guard_processes():
        for index, source in enumerate(sources):
            console.print(Text(("\n" if index else "") + source.name, style="bold"))
            if mistake := _mistake_of_options(source, own_options):
                if len(sources) == 1:
                    raise UserError(mistake)
                how = f"Check it alone and give them: reasoner plugins check {source.name} --options '{{...}}'"
                console.print(Padding(Text(f"not checked, because it needs options. {mistake} {how}"), (0, 0, 0, 2)))
                continue
            checklist = check_source(source, known, options=own_options, plugins=files)
            console.print(_checklist_table(checklist))
            failed += [] if checklist.passed else [source.name]
    if failed:
        console.print(Text(f"\nThe contract is broken by {', '.join(failed)}.", style="bold red"))
        raise typer.Exit(1)


def _checklist_table(checklist: Checklist) -> Table:
    table = Table.grid(padding=(0, 2))
    for check in checklist.checks:
        state = Text("ok", style="green") if check.passed else Text("FAIL", style="bold red")
        table.add_row("", state, Text(check.text, overflow="fold"))
    return table


def _mistake_of_options(source: RewardSource, options: Mapping[str, Any]) -> str:
    """Why the source does not accept the options, or an empty string."""
    try:
        source.check_options(options)
    except ConfigError as error:
        return str(error)
    return ""


def _is_file(name: str) -> bool:
    return name.endswith(".py") or ("/" in name and not Path(name).is_dir())


def _sources_of(name: str, manager: pluggy.PluginManager) -> list[RewardSource]:
    """The reward sources of a plugin, by its file, its distribution's or package's name; or the one of that name.

    Raises:
        UserError: there is none, or the plugin is broken.
    """
    sources = hooks.reward_sources(manager)
    registered = {_name(item.origin): item for item in hooks.registrations(manager)}
    if name in registered:
        if registered[name].error:
            raise UserError(registered[name].error)
        if not registered[name].rewards:
            raise UserError(f"{registered[name].origin} registers no reward source: there is nothing to check.")
        return [sources[item] for item in registered[name].rewards]
    if name in sources:
        return [sources[name]]
    if (Path(name) / "pyproject.toml").is_file():
        raise UserError(f"no plugin {name!r} is installed; its folder is here: pip install -e {quote(name)}")
    raise UserError(
        f"there is no plugin and no reward source {name!r}.{nearest(name, [*registered, *sources])} "
        "See `reasoner plugins list`."
    )


def _name(origin: str) -> str:
    """`x` of `distribution x (x.hooks)`, `reasoner_rewards` of `built-in package reasoner_rewards`."""
    for kind in (hooks.PACKAGE, hooks.DISTRIBUTION, hooks.FILE):
        origin = origin.removeprefix(f"{kind} ")
    return origin.partition(" (")[0]
