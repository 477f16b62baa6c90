"""`reasoner plugins`: what is installed, a start for one's own, and the contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import pluggy
import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.cli.inspect.rewards import Options, parse_options
from reasoner.errors import ConfigError, UserError, nearest
from reasoner.plugins import manager as hooks
from reasoner.plugins.reward_api import RewardSource
from reasoner.plugins.scaffold import package_of, write_plugin
from reasoner.processes.lifetime import guard_processes, interruptible

app = typer.Typer(help="List plugins, start one, and check its verifiers.", no_args_is_help=True)

REGISTERED = ("rewards", "tasks", "generators", "algorithms", "trackers")


@app.command("list")
def list_plugins(plugin: options.Plugins = None) -> None:
    """Every plugin, where it is and what it registers; the broken ones with their error.

    Example: reasoner plugins list --plugin my_verifier.py
    """
    console = out()
    for index, each in enumerate(hooks.registrations(hooks.build_manager(plugin or ()))):
        console.print(Text(("\n" if index else "") + each.origin, style="bold"))
        if each.error:
            console.print(Padding(Text(f"BROKEN: {each.error}", style="red"), (0, 0, 0, 2)))
            continue
        console.print(Text(f"  file        {each.file}"), soft_wrap=True)
        table = Table.grid(padding=(0, 2))
        for kind in REGISTERED:
            if names := getattr(each, kind):
                table.add_row(f"  {kind:<10}", Text(", ".join(names), overflow="fold"))
        console.print(table if table.rows else "  registers nothing")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of the distribution: lower-case words joined by '-'.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder in which its folder is made.")] = Path(),
) -> None:
    """Write a distribution with one verifier and its test, ready for `pip install`.

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
        str, typer.Argument(metavar="NAME_OR_FILE", help="A plugin of `reasoner plugins list`, its file, or a source.")
    ],
    cases: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='JSON lines: {"reference": .., "response": .., "expected": 1.0}.'),
    ] = None,
    given: Options = None,
    plugin: options.Plugins = None,
) -> None:
    """Run the contract of reward sources on every source of a plugin, in the workers of a run.

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
            if refused := _refused(source, own_options):
                if len(sources) == 1:
                    raise UserError(refused)
                how = f"Give them to it alone: reasoner plugins check {source.name} --options '{{...}}'"
                console.print(Padding(Text(f"not checked, it needs options. {refused} {how}"), (0, 0, 0, 2)))
                continue
            checklist = check_source(source, known, options=own_options, plugins=files)
            table = Table.grid(padding=(0, 2))
            for each in checklist.checks:
                state = Text("ok", style="green") if each.passed else Text("FAIL", style="bold red")
                table.add_row("", state, Text(each.text, overflow="fold"))
            console.print(table)
            failed += [] if checklist.passed else [source.name]
    if failed:
        console.print(Text(f"\n{', '.join(failed)}: not as the contract asks", style="bold red"))
        raise typer.Exit(1)


def _refused(source: RewardSource, given: Mapping[str, Any]) -> str:
    """Why the source does not take the options; empty: it does."""
    try:
        source.check_options(given)
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
    found = {_name(each.origin): each for each in hooks.registrations(manager)}
    if name in found:
        if found[name].error:
            raise UserError(found[name].error)
        if not found[name].rewards:
            raise UserError(f"{found[name].origin} registers no reward source: there is nothing to check.")
        return [sources[each] for each in found[name].rewards]
    if name in sources:
        return [sources[name]]
    if (Path(name) / "pyproject.toml").is_file():
        raise UserError(f"no plugin {name!r} is installed; its folder is here: pip install -e {quote(name)}")
    raise UserError(
        f"there is no plugin and no reward source {name!r}.{nearest(name, [*found, *sources])} "
        "See `reasoner plugins list`."
    )


def _name(origin: str) -> str:
    """`x` of `distribution x (x.hooks)`, `reasoner_rewards` of `built-in package reasoner_rewards`."""
    for kind in (hooks.PACKAGE, hooks.DISTRIBUTION, hooks.FILE):
        origin = origin.removeprefix(f"{kind} ")
    return origin.partition(" (")[0]
