"""`reasoner tasks`: what can be trained."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from reasoner.cli import options
from reasoner.cli.console import out, print_samples
from reasoner.config import Config
from reasoner.errors import ReasonerError
from reasoner.loading import Resolved, load_config
from reasoner.loading.task_files import find_parts, find_task, members
from reasoner.planning.describe import describe_environment, describe_method, describe_rewards, describe_source
from reasoner.plugins import manager as hooks
from reasoner.plugins.hookspecs import TaskFamily

app = typer.Typer(help="List and show tasks.", no_args_is_help=True)


@app.command("list")
def list_tasks(plugin: options.Plugins = None) -> None:
    """List all registered tasks with their profiles, and task families with their size."""
    registered = hooks.task_files(hooks.build_manager(plugin or ()))
    table = Table("task", "about", "profiles", box=None, pad_edge=False)
    for name in registered:
        task = find_task(name, registered)
        table.add_row(name, task.title, ", ".join(task.profiles))
    for name, family in registered.families.items():
        table.add_row(f"{name}/*", family.title, _size(name, family))
    out().print(table)


@app.command("show")
def show(
    task: options.TaskOption,
    sample: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Show N prompts of the task's data instead, with their tokens and references."
        ),
    ] = 0,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
) -> None:
    """Show a task's file and what each profile sets; for a task family, the names of its tasks; for several tasks, what
    a mixture of them is in the profiles that all have.

    Examples:

    reasoner tasks show math-gsm8k

    reasoner tasks show math-gsm8k=2 code-stdin=1

    reasoner tasks show my-task.toml --sample 3 --set data.train.path=other.jsonl
    """
    registered = hooks.task_files(hooks.build_manager(plugin or ()))
    if len(task) == 1 and task[0] in registered.families and task[0] not in registered:
        _show_family(task[0], registered.families[task[0]])
        return
    if sample:
        _show_samples(load_config(task, sets=sets or (), plugins=plugin or ()), sample)
        return
    parts = find_parts(task, registered)
    profiles: list[str | None] = [name for name in parts[0].profiles if all(name in part.profiles for part in parts)]
    facts = {
        profile: _facts(load_config(task, profile, sets=sets or (), plugins=plugin or ()).config)
        for profile in profiles or [None]
    }
    console = out()
    for part in parts:
        console.print(part.title or part.name, markup=False)
        if part.path is not None:
            console.print(f"file: {part.path}", markup=False, soft_wrap=True)
    for profile, table in facts.items():
        console.print()
        console.print(f"--profile {profile}" if profile else "no profiles", style="bold")
        console.print(table)


def _facts(config: Config) -> Table:
    """What a run with this configuration would take."""
    table = Table.grid(padding=(0, 2))
    table.add_row("model", config.model.path)
    weights = {part.task: f", weight {part.weight}" for part in config.mixture}
    for name, part in config.parts.items():
        if config.mixture:
            table.add_row("task", f"{name}{weights[name]}")
        for source in part.data.sources:
            table.add_row(source, describe_source(part.data.sources[source]))
        table.add_row("rewards", describe_rewards(part) or "none")
        if part.environment is not None:
            table.add_row("environment", describe_environment(part.environment))
    for name, fact in describe_method(config).items():
        table.add_row(name, fact)
    return table


def _show_samples(resolved: Resolved, count: int) -> None:
    """Prompts as the policy sees them, with the profile that a run takes."""
    from reasoner.planning.rehearsal import rehearse

    rehearsal = rehearse(resolved.config, resolved.manager, training=bool(resolved.config.gro.terms))
    for name, fact in rehearsal.facts.items():
        out().print(f"{name}: {fact}", markup=False, highlight=False, soft_wrap=True)
    for note in rehearsal.splits.notes:
        out().print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    print_samples(list(rehearsal.samples(count)))


def _size(name: str, family: TaskFamily) -> str:
    """How many tasks a family has, or why that is not known: the others are listed anyway."""
    try:
        return f"{len(members(name, family))} tasks: reasoner tasks show {name}"
    except ReasonerError as error:
        return f"not available: {error}"


def _show_family(name: str, family: TaskFamily) -> None:
    console = out()
    console.print(family.title, markup=False)
    console.print()
    for member in members(name, family):
        console.print(f"{name}/{member}", markup=False, highlight=False, soft_wrap=True)
