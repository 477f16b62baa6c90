"""The command line: one file per command group, registered here."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoner import __version__
from reasoner.cli.inspect import algorithms, config, plugins, rewards, tasks
from reasoner.cli.results import eval, export, report, runs, score
from reasoner.cli.train import doctor, node, plan, run, serve
from reasoner.sandbox.permission import permit_unsandboxed

WORK = "Train and evaluate"
LOOK = "Look before you run"
BACK = "Look back"

app = typer.Typer(
    name="reasoner",
    help="Post-train large reasoning models with verifiable rewards.",
    epilog="Start here:  reasoner doctor  |  reasoner run math-gsm8k --profile laptop --dry-run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("run", rich_help_panel=WORK)(run.run)
app.command("eval", rich_help_panel=WORK)(eval.evaluate)
app.command("score", rich_help_panel=WORK)(score.score)
app.command("serve", rich_help_panel=WORK)(serve.serve)
app.add_typer(runs.app, name="runs", rich_help_panel=BACK)
app.command("report", rich_help_panel=BACK)(report.report)
app.command("export", rich_help_panel=BACK)(export.export)
app.add_typer(tasks.app, name="tasks", rich_help_panel=LOOK)
app.add_typer(rewards.app, name="rewards", rich_help_panel=LOOK)
app.add_typer(plugins.app, name="plugins", rich_help_panel=LOOK)
app.add_typer(algorithms.app, name="algorithms", rich_help_panel=LOOK)
app.add_typer(config.app, name="config", rich_help_panel=LOOK)
app.command("plan", rich_help_panel=LOOK)(plan.plan)
app.command("node", hidden=True)(node.node)
app.command("doctor", rich_help_panel=LOOK)(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reasoner {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Post-train large reasoning models with verifiable rewards."""
    permit_unsandboxed(False)  # whatever the environment says: only a command's own option gives it
