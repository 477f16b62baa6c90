"""`reasoner rewards attack`: the known shortcuts to a reward, and what a source pays for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pluggy
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.cli.inspect.reward_inputs import (
    correctness_threshold,
    reward_of,
    short_text,
    source_service,
    task_config,
    task_problems,
)
from reasoner.cli.inspect.reward_options import LISTING, CasesHelp, Name, Options, parse_options
from reasoner.cli.progress import counting
from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import UserError
from reasoner.io.safe_text import printable
from reasoner.io.serialization import to_json
from reasoner.plugins import manager as hooks
from reasoner.plugins.reward_api import Aspect
from reasoner.records import Problem
from reasoner.scoring.base import verdict_text
from reasoner.testing.attack import AttackReport, Payment, attack
from reasoner.testing.attack_corpus import EXAMPLES
from reasoner.testing.cases import load_cases

MOST_PROBLEMS = 8
"""problems of a task, or of a file of cases, that are attacked: spread over all of them"""
MOST = 20
"""payments that are printed"""
REWARDS: Mapping[Aspect, str] = {
    "answer": "rewards the right answer: no shortcut may get as much",
    "form": "rewards the form: a wrong answer in it may be paid, an empty form may not",
    "text": "rewards a measure of the text: what it pays is for you to judge",
}


def attack_source(
    name: Name,
    task: Annotated[str | None, typer.Option(help="Task whose problems are used.")] = None,
    cases: Annotated[Path | None, typer.Option(metavar="FILE", help=f"{CasesHelp} Their problems are used.")] = None,
    profile: options.Profile = None,
    sets: options.Sets = None,
    option_values: Options = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Try the known shortcuts to a reward on a source: what does it pay for, beside the right answer?

    Empty answers, the question, every candidate, contradicting answers, an empty form, verdicts for a judge,
    look-alikes, near misses of the reference and more, on eight problems of a task or of a file of cases; without
    either, on a few made-up ones. A source that rewards the form or the length and not the answer says so
    (@reward(aspect="form")), and may be paid for wrong answers.

    The exit code is 1 when something was paid in full that must not be, or when no reference answer is paid, so that
    nothing is shown.

    Examples:

    reasoner rewards attack code --task code-stdin

    reasoner rewards attack my_verifier --plugin my_verifier.py --cases cases.jsonl
    """
    if task is not None and cases is not None:
        raise UserError("--task and --cases both name the problems; give one of them.")
    if task is None and (profile or sets):
        raise UserError("--profile and --set change a task; name it with --task.")
    manager = hooks.build_manager(plugin or ())
    source = hooks.find("reward source", name, hooks.reward_sources(manager), LISTING)
    if task is not None:
        resolved = task_config(task, profile, sets, plugin)
        config, manager = resolved.config, resolved.manager
        source = hooks.find("reward source", name, hooks.reward_sources(manager), LISTING)
        reward, plugins = reward_of(config, name, option_values), config.plugins
        problems, least = task_problems(config, manager), correctness_threshold(config, name)
    else:
        reward, plugins, least = RewardConfig(source=name, options=parse_options(option_values)), plugin or [], 1.0
        problems = [case.problem for case in load_cases(cases)] if cases is not None else list(EXAMPLES)
    chosen = _spread(_distinct(problems))
    report = _attack(reward, source.rewarded(reward.options), chosen, plugins, manager, least)
    if json_:
        typer.echo(printable(to_json(_as_json(report, len(problems)), indent=2)))
    else:
        _print(out(), report)
    if report.wrong or not report.problems:
        raise typer.Exit(1)


def _attack(
    reward: RewardConfig,
    aspect: Aspect,
    problems: Sequence[Problem],
    plugins: Sequence[str],
    manager: pluggy.PluginManager,
    least: float,
) -> AttackReport:
    with source_service(reward, ScoringConfig(), plugins, manager) as scorer, counting() as count:
        (report,) = attack(scorer, {reward.source: aspect}, problems, count, least)
    return report


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once: cases are several responses to a problem."""
    return list(
        {(problem.messages, problem.answer, str(problem.fields.get("tests"))): problem for problem in problems}.values()
    )


def _spread(problems: Sequence[Problem]) -> Sequence[Problem]:
    if len(problems) <= max(MOST_PROBLEMS, len(EXAMPLES)):
        return problems
    return [problems[index * len(problems) // MOST_PROBLEMS] for index in range(MOST_PROBLEMS)]


def _print(console: Console, report: AttackReport) -> None:
    console.print(Text(f"{report.source} {REWARDS[report.aspect]}."), soft_wrap=True)
    tried = report.problems + len(report.unread)
    console.print(f"It takes the reference answer of {report.problems} of {tried} problems.")
    if not report.problems:
        console.print(Text(f"Nothing is shown: {report.unread[0]}", style="bold red"), soft_wrap=True)
        return
    table = Table("attack", box=None, pad_edge=False)
    for title in ("tried", "failed", "highest", "paid"):
        table.add_column(title, justify="right")
    table.add_column("")
    for name, payments in report.by_attack.items():
        row = _row(report, payments)
        table.add_row(name, *(str(row[key]) for key in ("tried", "failed", "highest", "paid")), _note_cell(row))
    console.print(table)
    for payment in report.wrong[:MOST]:
        console.print(Text(f"\n{payment.attack.name}: paid {verdict_text(payment.component)}", style="bold"))
        console.print(Text(f"  reference {short_text(payment.problem.answer)}"))
        console.print(Text(f"  response  {short_text(payment.attack.text)}"))
    if len(report.wrong) > MOST:
        console.print(f"\nand {len(report.wrong) - MOST} more")
    tail = f"{len(report.wrong)} of {len(report.payments)} attacks were paid in full and must not be."
    console.print(
        Text(f"\n{tail}", style="bold red") if report.wrong else "\nNothing was paid in full that must not be."
    )


def _row(report: AttackReport, payments: Sequence[Payment]) -> dict[str, Any]:
    """What became of one attack, over all its texts."""
    values = [payment.component.value for payment in payments if payment.component.value is not None]
    return {
        "tried": len(payments),
        "failed": sum(payment.component.failure is not None for payment in payments),
        "highest": round(max(values), 4) if values else None,
        "paid": sum(payment.in_full for payment in payments),
        "wrong": sum(payment.attack.name == payments[0].attack.name for payment in report.wrong),
    }


def _note_cell(row: Mapping[str, Any]) -> Text:
    if row["wrong"]:
        return Text("must not be paid", style="bold red")
    return Text("its nature" if row["paid"] else "")


def _as_json(report: AttackReport, problems: int) -> dict[str, Any]:
    return {
        "source": report.source,
        "aspect": report.aspect,
        "problems": report.problems,
        "of": problems,
        "unread": list(report.unread),
        "attacks": {name: _row(report, payments) for name, payments in report.by_attack.items()},
        "wrong": [
            {
                "attack": payment.attack.name,
                "problem": payment.problem.id,
                "reference": payment.problem.answer,
                "response": payment.attack.text[:1000],
                "value": payment.component.value,
            }
            for payment in report.wrong
        ],
    }
