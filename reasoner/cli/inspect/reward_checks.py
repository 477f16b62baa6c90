"""`reasoner rewards test` and `bench`: how well a reward source judges references and labelled responses."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

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
from reasoner.config import Config, RewardConfig, ScoringConfig
from reasoner.errors import DataError, UserError
from reasoner.loading import Resolved, load_config
from reasoner.monitoring.format import duration, number
from reasoner.planning.problem_checks import ProblemChecks, check_problems
from reasoner.planning.references import read_references
from reasoner.plugins import manager as hooks
from reasoner.plugins.reward_api import RewardSource
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.records import Problem
from reasoner.scoring.base import verdict_text
from reasoner.testing.bench import Bench, CaseOutcome, SelfTest, bench, self_test
from reasoner.testing.cases import load_cases

MOST = 20
"""examples of each kind that are printed"""
Workers = Annotated[int, typer.Option(min=1, metavar="N", help="Worker processes.")]


def score_references(
    name: Name,
    task: Annotated[str | None, typer.Option(help="Task whose data is used; without it, every task with it.")] = None,
    profile: options.Profile = None,
    sets: options.Sets = None,
    option_values: Options = None,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Score every reference answer of a task's data as if it were a response: all must be correct.

    A response is correct with the value 1.0, or evaluation.threshold for the source that decides. A source may return
    "not applicable" for some problems, but not for all of them.

    A source that can test each problem itself (`code` runs its reference program) does so for all problems.
    The exit code is 1 when an answer is not correct or a problem cannot be judged. Without --task, a task whose data
    is not available is reported and skipped.

    Example: reasoner rewards test math --task math-gsm8k --profile laptop
    """
    registered = hooks.build_manager(plugin or ())
    hooks.find("reward source", name, hooks.reward_sources(registered), LISTING)
    rejected = tested = 0
    tasks = _tasks(name, task, profile, registered, plugin)
    for resolved in [task_config(task, profile, sets, plugin) for task in tasks]:
        config, manager = resolved.config, resolved.manager
        try:
            problems = task_problems(config, manager)
        except DataError as error:
            if task is not None:
                raise
            out().print(Text(f"{name} on {config.task}: not tested: {error}"))
            continue
        tested += 1
        rejected += _test_references(resolved, reward_of(config, name, option_values), problems)
        rejected += _test_problems(
            hooks.reward_sources(manager)[name], reward_of(config, name, option_values), problems
        )
    if rejected or not tested:
        raise typer.Exit(1)


def _test_references(resolved: Resolved, reward: RewardConfig, problems: Sequence[Problem]) -> int:
    """Score the reference answers and print what came of it; the number of failures."""
    config, console, name = resolved.config, out(), reward.source
    console.print(Text(f"{name} on {config.task}{f', profile {config.profile}' if config.profile else ''}"))
    answered = [problem for problem in problems if problem.answer]
    least = correctness_threshold(config, name)
    with source_service(reward, config.scoring, config.plugins, resolved.manager) as scorer, counting() as count:
        result = self_test(scorer, answered, count, least)
    _print_self_test(console, result, len(problems), least)
    if len(answered) < len(problems):
        console.print(Text(f"without a reference answer: {len(problems) - len(answered)}"))
    source = hooks.reward_sources(resolved.manager)[name]
    if readings := read_references(source, answered, reward.options, budget_s=math.inf):
        console.print(Text(f"references: {readings}"))
    never_applied = bool(answered) and not any(result.scored.values()) and not result.bare
    return len(result.rejected) + never_applied


def _test_problems(source: RewardSource, reward: RewardConfig, problems: Sequence[Problem]) -> int:
    """Let the source test every problem, if it can; the number of problems that it cannot judge."""
    with interruptible(), guard_processes(), counting() as count:
        checks = check_problems(source, reward.options, problems, progress=count("problems tried", len(problems)))
    if checks is None:
        return 0
    _print_problem_checks(out(), checks)
    return len(checks.refused)


def bench_cases(
    name: Name,
    cases: Annotated[Path, typer.Option(metavar="FILE", help=CasesHelp)],
    option_values: Options = None,
    workers: Workers = 2,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 when a verdict is not the expected one.")
    ] = False,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Measure a source on labelled responses: what it gets wrong, and how fast it is.

    Example: reasoner rewards bench math --cases cases.jsonl --strict
    """
    manager = hooks.build_manager(plugin or ())
    hooks.find("reward source", name, hooks.reward_sources(manager), LISTING)
    known = load_cases(cases)
    reward = RewardConfig(source=name, options=parse_options(option_values))
    scoring = ScoringConfig(workers=workers)
    with source_service(reward, scoring, plugin or (), manager) as scorer, counting() as count:
        started = time.perf_counter()
        result = bench(scorer, known, count("cases", len(known)))
        wall_s = time.perf_counter() - started
    _print_bench(out(), result, wall_s, workers)
    if strict and result.accuracy < 1.0:
        raise typer.Exit(1)


def _tasks(
    name: str, task: str | None, profile: str | None, manager: pluggy.PluginManager, plugin: list[str] | None
) -> list[str]:
    """The task that was named, or all that reward with the source."""
    if task is not None:
        return [task]
    registered = hooks.task_files(manager)
    tasks = [task for task in registered if _uses(load_config(task, profile, plugins=plugin or ()).config, name)]
    if not tasks:
        raise UserError(f"no registered task rewards with {name!r}; name one whose answers it can check with --task.")
    return tasks


def _uses(config: Config, name: str) -> bool:
    return any(reward.source == name for reward in config.rewards)


def _print_self_test(console: Console, result: SelfTest, problems: int, least: float) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("problems", str(problems))
    if result.inapplicable:
        table.add_row("not applicable", f"{result.inapplicable} of {problems}")
    value = "1.0" if least == 1.0 else f"{least:g} or more"
    for form, count in result.scored.items():
        wrong = sum(answer.form == form for answer in result.rejected)
        bare = f" ({result.bare} bare answers are scored as below only)" if form == "as given" and result.bare else ""
        table.add_row(form, f"{count - wrong} of {count} get {value}{bare}")
    console.print(table)
    for answer in result.rejected[:MOST]:
        note = f": {answer.note}" if answer.note else ""
        console.print(Text(f"\n{answer.problem_id}, {answer.form}: {answer.verdict}{note}"))
        console.print(Text(f"  {short_text(answer.text)}"))
    if len(result.rejected) > MOST:
        console.print(f"\nand {len(result.rejected) - MOST} more")


def _print_problem_checks(console: Console, checks: ProblemChecks) -> None:
    """What became of trying each problem, and the first ones that cannot be judged."""
    console.print(Text(f"tried: {checks}"), soft_wrap=True)
    for _, why in checks.refused[:MOST]:
        console.print(Text(f"  {why}"), soft_wrap=True)
    if len(checks.refused) > MOST:
        console.print(f"and {len(checks.refused) - MOST} more")


def _print_bench(console: Console, result: Bench, wall_s: float, workers: int) -> None:
    calls = len(result.verdicts)
    right = len(result.of_kind("agrees"))
    failed = ", ".join(f"{kind} {count}" for kind, count in result.failures.items())
    facts: Mapping[str, str] = {
        "cases": str(calls),
        "accuracy": f"{number(result.accuracy, 'share')} ({right} of {calls})",
        "false positives": f"{len(result.of_kind('false positive'))} (a higher value than expected)",
        "false negatives": f"{len(result.of_kind('false negative'))} (a lower value than expected)",
        "not applicable": f"{len(result.of_kind('not applicable'))} against the expectation",
        "failed": f"{len(result.of_kind('failed'))}{f' ({failed})' if failed else ''}",
        "speed": f"{calls / max(result.seconds, 1e-9):,.0f} responses/s per worker, in the source alone",
        "took": f"{duration(wall_s)} with {workers} worker{'s' if workers > 1 else ''}",
    }
    table = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        table.add_row(name, fact)
    console.print(table)
    kinds: tuple[CaseOutcome, ...] = ("false positive", "false negative", "not applicable", "failed")
    for kind in kinds:
        cases = result.of_kind(kind)
        if not cases:
            continue
        more = f", the first {MOST} of {len(cases)}" if len(cases) > MOST else ""
        console.print(Text(f"\n{kind}{more}", style="bold"))
        for verdict in cases[:MOST]:
            case, note = verdict.case, verdict.component.note
            expected = "not applicable" if case.expected is None else f"{case.expected:g}"
            end = f", expected {expected}{f' ({note})' if note else ''}"
            console.print(Text(f"{case.problem.id}: {verdict_text(verdict.component)}{end}"))
            console.print(Text(f"  reference {short_text(case.problem.answer)}"))
            console.print(Text(f"  response  {short_text(case.response.text)}"))
