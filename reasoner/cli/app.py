"""The command line: one file per command, registered here; the panels of `--help` are the folders."""

from __future__ import annotations

from typing import Annotated

import typer

from reasoner import __version__
from reasoner.cli.inspect import algorithms, config, doctor, environments, plan, plugins, rewards, tasks
from reasoner.cli.results import eval, export, report, runs, score
from reasoner.cli.train import node, run, serve
from reasoner.sandbox.permission import permit_unsandboxed

TRAIN = "Train"
INSPECT = "Inspect before a run"
RESULTS = "Results: evaluate, compare, report, export"

app = typer.Typer(
    name="reasoner",
    help="Post-train large reasoning models with verifiable rewards.",
    epilog="Start here:  reasoner doctor  |  reasoner run math-gsm8k --profile laptop --dry-run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("run", rich_help_panel=TRAIN)(run.run)
app.command("serve", rich_help_panel=TRAIN)(serve.serve)
app.command("node", hidden=True)(node.node)
app.command("doctor", rich_help_panel=INSPECT)(doctor.doctor)
app.command("plan", rich_help_panel=INSPECT)(plan.plan)
app.add_typer(tasks.app, name="tasks", rich_help_panel=INSPECT)
app.add_typer(algorithms.app, name="algorithms", rich_help_panel=INSPECT)
app.add_typer(rewards.app, name="rewards", rich_help_panel=INSPECT)
app.add_typer(environments.app, name="environments", rich_help_panel=INSPECT)
app.add_typer(plugins.app, name="plugins", rich_help_panel=INSPECT)
app.add_typer(config.app, name="config", rich_help_panel=INSPECT)
app.command("eval", rich_help_panel=RESULTS)(eval.evaluate)
app.command("score", rich_help_panel=RESULTS)(score.score)
app.add_typer(runs.app, name="runs", rich_help_panel=RESULTS)
app.command("report", rich_help_panel=RESULTS)(report.report)
app.command("export", rich_help_panel=RESULTS)(export.export)


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
    permit_unsandboxed(False)  # the environment cannot permit it: only a command's own option can
