"""`reasoner score`: saved responses under other rewards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out, print_preflights, warn
from reasoner.cli.progress import counting
from reasoner.errors import UserError
from reasoner.planning.preflight import preflight
from reasoner.plugins import manager as hooks
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.scoring.service import ScoringService

if TYPE_CHECKING:
    from reasoner.benchmarks.rescore import RescoredResponse, Rescoring

MOST = 10
"""changes that are printed"""


def score(
    saved: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_FILE",
            help="Run folder, or the beginning of its name in runs/; or one file of rollouts (.parquet, .jsonl).",
        ),
    ],
    config: options.ConfigFiles = None,
    sets: options.Sets = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Also write every response with its old and new rewards to this file."),
    ] = None,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Score saved responses again with the run's rewards, as changed by --config and --set, and compare.

    Examples:

    reasoner score runs/20260101-120000-math-gsm8k --set rewards.math.options.extract=lenient

    reasoner score runs/20260101-120000-math-gsm8k/rollouts/eval-000000.parquet --output again.jsonl
    """
    from reasoner.benchmarks.rescore import config_for, load_saved, rescore, saved_path

    path = saved_path(saved)
    batches = load_saved(path)
    configuration = config_for(path, config or (), sets or (), plugin or ())
    resolved = configuration.config
    rewards = [reward for of_task in resolved.scored.values() for reward in of_task]
    if not rewards:
        raise UserError("the configuration has no rewards to score with; add [[rewards]] with --config FILE.")
    print_preflights(preflight(rewards, configuration.manager))
    algorithms = hooks.algorithms(configuration.manager)
    responses = sum(len(scored.rewards) for batch in batches for scored in batch.groups)
    with (
        interruptible(),
        guard_processes(),
        ScoringService(resolved.scored, resolved.scoring, resolved.plugins, warn) as scorer,
        counting() as count,
    ):
        comparison = rescore(batches, scorer, resolved, algorithms, count("responses", responses))
    _print(out(), comparison)
    if output is not None:
        _write(output, comparison)


def _write(output: Path, comparison: Rescoring) -> None:
    from reasoner.io.serialization import write_jsonl

    try:
        write_jsonl(output, comparison.changes)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error
    out().print(Text(f"\nall {len(comparison.changes)} responses: {output}"), soft_wrap=True)


def _print(console: Console, comparison: Rescoring) -> None:
    table = Table("reward", "old mean", "new mean", "changed", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for component in comparison.components:
        of = f"{component.changed} of {len(comparison.changes)}"
        table.add_row(Text(component.name), _mean(component.old_mean), _mean(component.new_mean), of)
    console.print(table)
    console.print()
    facts = Table.grid(padding=(0, 2))
    facts.add_row("groups ranked differently", f"{comparison.reordered} of {comparison.groups}")
    turned = f"{comparison.turned} of {comparison.credits}"
    facts.add_row(
        "credits that change sign", f"not computed: {comparison.no_credit}" if comparison.no_credit else turned
    )
    if (correctness := comparison.correctness) is not None:
        shares = f"{100 * correctness.old:.1f}% -> {100 * correctness.new:.1f}%"
        over = f"over {correctness.groups} of {comparison.groups} groups, judged before and now"
        facts.add_row(Text(f"correct ({correctness.correct})"), f"{shares}, {over}")
    for source, failed in comparison.failures.items():
        facts.add_row("failed calls", Text(f"{source}: {failed}"))
    console.print(facts)
    largest = comparison.largest(MOST)
    console.print(Text("\nLargest changes" if largest else "\nNo reward changed.", style="bold"))
    for change in largest:
        console.print(Text(_heading(change)))
        if change.note:
            console.print(Text(f"  {change.note}"))


def _heading(change: RescoredResponse) -> str:
    when = f"step {change.step}" if change.training else f"evaluation after step {change.step}"
    return f"{change.problem}, sample {change.sample}, {when}: {_number(change.old)} -> {_number(change.new)}"


def _number(value: float | None) -> str:
    return "abstained" if value is None else f"{value:.4g}"


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
