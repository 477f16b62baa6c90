"""`reasoner plugins`: list what is installed, create one, check the contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from reasoner.plugins.environment_api import EnvironmentKind
from reasoner.plugins.reward_api import RewardSource
from reasoner.plugins.scaffold import ENVIRONMENT, VERIFIER, package_of, write_plugin
from reasoner.plugins.tool_api import Tool
from reasoner.processes.lifetime import guard_processes, interruptible

if TYPE_CHECKING:
    from reasoner.testing.cases import Case
    from reasoner.testing.checklist import Checklist

app = typer.Typer(help="List plugins, create one, and check what it registers.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class RegisteredLink:
    """A link as a plugin registers it."""

    name: str
    function: Callable[..., Any]

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the function does not take, or that are missing.

        Raises:
            ConfigError: with what is wrong.
        """
        try:
            inspect.signature(self.function).bind(None, None, **options)
        except TypeError as error:
            raise ConfigError(f"link {self.name!r}: {error}") from None


Checkable = RewardSource | Tool | EnvironmentKind | RegisteredLink
LINK = "link "
"""how the name of a link begins among what a plugin registers"""
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
    environment: Annotated[
        bool, typer.Option("--environment", help="Begin with an environment and a tool of it, in place of a verifier.")
    ] = False,
) -> None:
    """Create a distribution with one verifier, or one environment, and its test, ready for `pip install`.

    Examples:

    reasoner plugins new unit-verifier

    reasoner plugins new word-game --environment
    """
    manager = hooks.build_manager()
    taken = {**hooks.reward_sources(manager), **hooks.environments(manager), **hooks.tools(manager)}
    start = ENVIRONMENT if environment else VERIFIER
    folder = write_plugin(name, output, taken, start)
    console = out()
    console.print(Text(f"{folder}: start with {package_of(name)}/{start.module}.py"), soft_wrap=True)
    console.print(Text("\nInstall it into this environment, then test it:", style="bold"))
    for command in (f"pip install -e '{folder}[test]'", f"pytest {folder}", f"reasoner plugins check {name}"):
        console.print(Text(f"  {command}"), soft_wrap=True)


@app.command("check")
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FILE",
            help="Name of a plugin (`reasoner plugins list`), its file, or one reward source, tool, environment or "
            "link.",
        ),
    ],
    cases: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=CasesHelp),
    ] = None,
    option_values: Options = None,
    plugin: options.Plugins = None,
) -> None:
    """Check that a plugin's reward sources, tools and environments keep the contract, in the same worker processes that
    a run uses, and its links on a range of values.

    The exit code is 1 when something fails. An environment is started with the problem of the first case, and the
    responses of the cases are its turns.

    Examples:

    reasoner plugins check my_verifier.py

    reasoner plugins check math --cases cases.jsonl
    """
    from reasoner.testing.cases import load_cases

    files = list(plugin or ())
    if _is_file(name) and name not in files:
        files.append(name)
    items = _registered_by(name, hooks.build_manager(files))
    known = load_cases(cases) if cases is not None else []
    own_options = parse_options(option_values)
    if own_options and len(items) > 1:
        raise UserError(
            f"--options are those of one source, and {name!r} has {', '.join(source.name for source in items)}: "
            "name one of them."
        )
    console = out()
    failed: list[str] = []
    unreached: list[str] = []
    with interruptible(), guard_processes():
        for index, item in enumerate(items):
            console.print(Text(("\n" if index else "") + item.name, style="bold"))
            if mistake := _mistake_of_options(item, own_options):
                if len(items) == 1:
                    raise UserError(mistake)
                how = f"Check it alone and give them: reasoner plugins check {item.name} --options '{{...}}'"
                console.print(Padding(Text(f"not checked, because it needs options. {mistake} {how}"), (0, 0, 0, 2)))
                continue
            checklist = _checklist(item, known, own_options, files)
            console.print(_checklist_table(checklist))
            failed += [] if checklist.passed else [item.name]
            unreached += [item.name] if checklist.unreached else []
    if unreached:
        console.print(
            Text(
                f"\nNot everything was checked of {', '.join(unreached)}: the lines with '-' say why; --cases FILE "
                "gives problems of its kind."
            )
        )
    if failed:
        console.print(Text(f"\nThe contract is broken by {', '.join(failed)}.", style="bold red"))
        raise typer.Exit(1)


def _checklist(
    checked: Checkable,
    cases: Sequence[Case],
    options: Mapping[str, Any],
    plugins: Sequence[str],
) -> Checklist:
    from reasoner.testing import check_environment, check_link, check_source, check_tool

    if isinstance(checked, RewardSource):
        return check_source(checked, cases, options=options, plugins=plugins)
    if isinstance(checked, RegisteredLink):
        return check_link(checked.name, checked.function, options=options)
    if isinstance(checked, Tool):
        return check_tool(checked, options=options, plugins=plugins)
    turns = [case.response.text for case in cases]
    return check_environment(checked, cases[0].problem if cases else None, turns, options=options, plugins=plugins)


def _checklist_table(checklist: Checklist) -> Table:
    table = Table.grid(padding=(0, 2))
    for check in checklist.checks:
        state = Text("ok", style="green") if check.reached else Text("-", style="yellow")
        state = state if check.passed else Text("FAIL", style="bold red")
        table.add_row("", state, Text(check.text, overflow="fold"))
    return table


def _mistake_of_options(source: Checkable, options: Mapping[str, Any]) -> str:
    """Why the source does not accept the options, or an empty string."""
    try:
        source.check_options(options)
    except ConfigError as error:
        return str(error)
    return ""


def _is_file(name: str) -> bool:
    return name.endswith(".py") or ("/" in name and not Path(name).is_dir())


def _registered_by(name: str, manager: pluggy.PluginManager) -> list[Checkable]:
    """What a plugin registers that can be checked, by its file, its distribution's or package's name; or the reward
    source, tool, environment or link of that name.

    Raises:
        UserError: there is none, or the plugin is broken.
    """
    sources, tools, kinds = hooks.reward_sources(manager), hooks.tools(manager), hooks.environments(manager)
    links = {link: RegisteredLink(link, function) for link, function in hooks.algorithms(manager).links.items()}
    registered = {_name(item.origin): item for item in hooks.registrations(manager)}
    if name in registered:
        item = registered[name]
        if item.error:
            raise UserError(item.error)
        items: list[Checkable] = [
            *(sources[reward] for reward in item.rewards),
            *(tools[tool] for tool in item.tools),
            *(kinds[environment] for environment in item.environments),
            *(links[link.removeprefix(LINK)] for link in item.algorithms if link.startswith(LINK)),
        ]
        if not items:
            raise UserError(
                f"{item.origin} registers no reward source, tool, environment or link: there is nothing to check."
            )
        return items
    tables: list[Mapping[str, Checkable]] = [sources, tools, kinds, links]
    named = [table[name] for table in tables if name in table]
    if named:
        return named
    if (Path(name) / "pyproject.toml").is_file():
        raise UserError(f"no plugin {name!r} is installed; its folder is here: pip install -e {quote(name)}")
    raise UserError(
        f"there is no plugin, reward source, tool, environment or link {name!r}."
        f"{nearest(name, [*registered, *sources, *tools, *kinds, *links])} See `reasoner plugins list`."
    )


def _name(origin: str) -> str:
    """`x` of `distribution x (x.hooks)`, `reasoner_rewards` of `built-in package reasoner_rewards`."""
    for kind in (hooks.PACKAGE, hooks.DISTRIBUTION, hooks.FILE):
        origin = origin.removeprefix(f"{kind} ")
    return origin.partition(" (")[0]
