"""`reasoner rewards`: what can verify, and how well it does."""

from __future__ import annotations

import inspect
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pluggy
import tomli_w
import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out, print_preflights, warn
from reasoner.cli.train.progress import counting
from reasoner.config import Config, RewardConfig, ScoringConfig
from reasoner.data.problems import ProblemLoader
from reasoner.data.row_report import RowReport
from reasoner.data.row_selection import HELD_OUT_SEED
from reasoner.errors import ConfigError, DataError, UserError
from reasoner.io.parsing import parse_toml
from reasoner.loading import load_config
from reasoner.monitoring.format import duration, number
from reasoner.planning.preflight import preflight
from reasoner.planning.problem_checks import ProblemChecks, check_problems
from reasoner.planning.references import read_references
from reasoner.planning.sources import answers_needed
from reasoner.plugins import manager as hooks
from reasoner.plugins.reward_api import RewardSource
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.records import Problem
from reasoner.scoring.base import verdict_text
from reasoner.scoring.service import ScoringService
from reasoner.testing.bench import Bench, CaseOutcome, SelfTest, bench, self_test
from reasoner.testing.cases import load_cases

app = typer.Typer(help="List, show, test and measure reward sources.", no_args_is_help=True)

MOST = 20
"""examples of each kind that are printed"""
ARGS = re.compile(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", flags=re.MULTILINE)
CALLS = {
    "response": "sees one response",
    "group": "sees all responses to a problem",
    "batch": "sees responses to any problems",
}
"""granularity in words"""
LISTING = "reasoner rewards list"

Name = Annotated[str, typer.Argument(help=f"A name of `{LISTING}`.")]
Options = Annotated[
    str | None,
    typer.Option("--options", metavar="TOML", help="The source's options as a TOML table: '{extract = \"lenient\"}'."),
]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]


@app.command("list")
def list_rewards(plugin: options.Plugins = None) -> None:
    """All registered reward sources with their deadline and options.

    Example: reasoner rewards list --plugin my_verifier.py
    """
    sources = hooks.reward_sources(hooks.build_manager(plugin or ()))
    table = Table("source", "what it rewards", "s/call", "options", box=None, pad_edge=False)
    for name, source in sources.items():
        table.add_row(name, Text(source.summary), f"{source.timeout_s:g}", Text(_options(source)))
    out().print(table)


@app.command("show")
def show(name: Name, plugin: options.Plugins = None) -> None:
    """What a source rewards, its options, where it comes from, and the TOML that uses it.

    Example: reasoner rewards show math
    """
    manager = hooks.build_manager(plugin or ())
    source = hooks.find("reward source", name, hooks.reward_sources(manager), LISTING)
    console = out()
    console.print(Text(name, style="bold"))
    console.print(Text(_prose(source)))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("one call", CALLS[source.granularity])
    facts.add_row("deadline", f"{source.timeout_s:g} seconds per call")
    facts.add_row("workers", "shared" if source.workers is None else f"{source.workers} of its own")
    facts.add_row("retries", str(source.retries))
    facts.add_row("from", Text(_origin(manager, name)))
    console.print()
    console.print(facts)
    console.print(Text(f"file      {_place(source)}"), soft_wrap=True)
    console.print(Text("\nOptions", style="bold"))
    _print_options(console, source)
    console.print(Text("\nIn a task or --config file", style="bold"))
    console.print(Text(_example(source)), soft_wrap=True)


@app.command("test")
def score_references(
    name: Name,
    task: Annotated[str | None, typer.Option(help="Task whose data is used; without it: every task with it.")] = None,
    profile: options.Profile = None,
    sets: options.Sets = None,
    given: Options = None,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
) -> None:
    """Score every reference answer of a task's data as a response: all must be correct.

    Correct is 1.0, or evaluation.threshold for the source that decides. A source may say that it does not apply to a
    problem, but not to all of them.

    A source that can try whether it judges a problem as it should (`code`: as plain Python does) tries all of them.
    The exit code is 1 when an answer is not correct, or a problem cannot be judged. Without --task, a task whose data
    is not there is said and left out.

    Example: reasoner rewards test math --task math-gsm8k --profile laptop
    """
    manager = hooks.build_manager(plugin or ())
    hooks.find("reward source", name, hooks.reward_sources(manager), LISTING)
    rejected = tested = 0
    console = out()
    for config in [_task(each, profile, sets, plugin) for each in _tasks(name, task, profile, manager, plugin)]:
        manager = hooks.build_manager(config.plugins)
        try:
            problems = _problems(config, manager)
        except DataError as error:
            if task is not None:
                raise
            console.print(Text(f"{name} on {config.task}: not tested: {error}"))
            continue
        tested += 1
        reward = _reward_of(config, name, given)
        console.print(Text(f"{name} on {config.task}{f', profile {config.profile}' if config.profile else ''}"))
        with _service(reward, config.scoring, config.plugins) as scorer, counting() as count:
            answered = [problem for problem in problems if problem.answer]
            result = self_test(scorer, answered, count, least := _least(config, name))
        _print_self_test(console, result, len(problems), least)
        rejected += bool(answered) and not any(result.scored.values()) and not result.bare
        if len(answered) < len(problems):
            console.print(Text(f"without a reference answer: {len(problems) - len(answered)}"))
        source = hooks.reward_sources(manager)[name]
        if readings := read_references(source, answered, reward.options, budget_s=math.inf):
            console.print(Text(f"references: {readings}"))
        rejected += len(result.rejected)
        with interruptible(), guard_processes(), counting() as count:
            checks = check_problems(source, reward.options, problems, progress=count("problems tried", len(problems)))
        if checks is not None:
            _print_problem_checks(console, checks)
            rejected += len(checks.refused)
    if rejected or not tested:
        raise typer.Exit(1)


@app.command("bench")
def bench_cases(
    name: Name,
    cases: Annotated[
        Path, typer.Option(metavar="FILE", help='JSON lines: {"reference": .., "response": .., "expected": 1.0}.')
    ],
    given: Options = None,
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
    sources = hooks.reward_sources(hooks.build_manager(plugin or ()))
    hooks.find("reward source", name, sources, LISTING)
    known = load_cases(cases)
    reward = RewardConfig(source=name, options=parse_options(given))
    scoring = ScoringConfig(workers=workers)
    with _service(reward, scoring, plugin or ()) as scorer, counting() as count:
        started = time.perf_counter()
        result = bench(scorer, known, count("cases", len(known)))
        wall_s = time.perf_counter() - started
    _print_bench(out(), result, wall_s, workers)
    if strict and result.accuracy < 1.0:
        raise typer.Exit(1)


def parse_options(text: str | None) -> dict[str, Any]:
    """The table of `--options`.

    Raises:
        ConfigError: it is not a TOML table.
    """
    if text is None:
        return {}
    try:
        table = parse_toml(f"options = {text}")["options"]
    except ValueError as error:
        raise ConfigError(f"--options {text}: {error}. Write a table: '{{extract = \"lenient\"}}'.") from None
    if not isinstance(table, dict):
        raise ConfigError(f"--options {text}: must be a table, '{{extract = \"lenient\"}}', got {table!r}.")
    return table


@contextmanager
def _service(reward: RewardConfig, scoring: ScoringConfig, plugins: list[str] | tuple[()]) -> Iterator[ScoringService]:
    """Workers for one source that make every call; no number of failures stops them: they are what is looked for."""
    print_preflights(preflight([reward], plugins))
    scoring = scoring.model_copy(update={"max_failure_rate": 1.0, "cache": 0})
    with interruptible(), guard_processes(), ScoringService([reward], scoring, plugins, warn) as service:
        yield service


def _options(source: RewardSource) -> str:
    fields = source.options.model_fields.items()
    return (
        ", ".join(name if field.is_required() else f"{name} = {_default(field)!r}" for name, field in fields) or "none"
    )


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _print_options(console: Console, source: RewardSource) -> None:
    """As the function declares them, each with its meaning below."""
    meanings = _meanings(source)
    for name, field in source.options.model_fields.items():
        default = ", needed" if field.is_required() else f" = {_default(field)!r}"
        console.print(Padding(Text(f"{name}: {_type(field.annotation)}{default}"), (0, 0, 0, 2)))
        if meaning := field.description or meanings.get(name, ""):
            console.print(Padding(Text(" ".join(meaning.split())), (0, 0, 0, 6)))
    if not source.options.model_fields:
        console.print("  none")


def _type(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _prose(source: RewardSource) -> str:
    """The docstring without its `Args:`, which the table has; lines of a paragraph joined, to be wrapped anew."""
    text = ARGS.sub("", inspect.getdoc(source.function) or "(no docstring)")
    return re.sub(r"(?<=\S)\n(?=[^\s*-])", " ", text).strip()


def _meanings(source: RewardSource) -> dict[str, str]:
    """What the `Args:` section of the docstring says of each option."""
    section = ARGS.search(inspect.getdoc(source.function) or "")
    if section is None:
        return {}
    lines = inspect.cleandoc("\n" + section[1]).splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if start := re.match(r"(\w+)(?: \(.*?\))?:\s*(.*)", line):
            name, found[start[1]] = start[1], start[2]
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _origin(manager: pluggy.PluginManager, name: str) -> str:
    return next(each.origin for each in hooks.registrations(manager) if name in each.rewards)


def _place(source: RewardSource) -> str:
    function = inspect.unwrap(source.function)
    return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"


def _example(source: RewardSource) -> str:
    """A `[[rewards]]` entry with the defaults of all options."""
    fields = source.options.model_fields.items()
    defaults = {name: _default(field) for name, field in fields if not field.is_required()}
    given = {name: value for name, value in defaults.items() if isinstance(value, (bool, int, float, str, list, tuple))}
    entry: dict[str, Any] = {"source": source.name, "weight": 1.0}
    text = "[[rewards]]\n" + tomli_w.dumps(entry)
    needed = {name: _type(field.annotation) for name, field in fields if field.is_required()}
    text += "".join(f"# options.{name} is needed: {type_}\n" for name, type_ in needed.items())
    return text + (f"[rewards.options]\n{tomli_w.dumps(given)}" if given else "")


def _tasks(
    name: str, task: str | None, profile: str | None, manager: pluggy.PluginManager, plugin: list[str] | None
) -> list[str]:
    """The task that was named, or all that reward with the source."""
    if task is not None:
        return [task]
    registered = hooks.task_files(manager)
    found = [each for each in registered if _uses(load_config(each, profile, plugins=plugin or ()).config, name)]
    if not found:
        raise UserError(f"no registered task rewards with {name!r}; name one whose answers it can check with --task.")
    return found


def _uses(config: Config, name: str) -> bool:
    return any(reward.source == name for reward in config.rewards)


def _task(task: str, profile: str | None, sets: list[str] | None, plugin: list[str] | None) -> Config:
    return load_config(task, profile, sets=sets or (), plugins=plugin or ()).config


def _problems(config: Config, manager: pluggy.PluginManager) -> list[Problem]:
    """The training and evaluation problems, those that are in both once."""
    found: dict[tuple[object, str], Problem] = {}
    report = RowReport(config.data.on_bad_row)
    load = ProblemLoader(config.prompt, hooks.generators(manager), report, needs_answer=answers_needed(config, manager))
    train = load.problems(config.data.train, config.run.seed, "data.train") if config.data.train else ()
    held_out = load.problems(config.data.eval, HELD_OUT_SEED, "data.eval") if config.data.eval else ()
    report.settle()
    for problem in (*train, *held_out):
        found.setdefault((problem.messages, problem.answer), problem)
    if not found:
        raise ConfigError(f"task {config.task!r} has neither data.train nor data.eval: there is no reference answer.")
    return list(found.values())


def _reward_of(config: Config, name: str, given: str | None) -> RewardConfig:
    """The source with the task's own options and deadline, and the options laid over them; alone, so no condition."""
    own = next((each for each in config.rewards if each.source == name), RewardConfig(source=name))
    return RewardConfig(source=name, options={**own.options, **parse_options(given)}, timeout_s=own.timeout_s)


def _least(config: Config, name: str) -> float:
    """The value from which on a response is correct by the source."""
    evaluation = config.evaluation
    return evaluation.threshold if evaluation is not None and evaluation.correct == name else 1.0


def _print_self_test(console: Console, result: SelfTest, problems: int, least: float) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("problems", str(problems))
    if result.inapplicable:
        table.add_row("not applicable", f"{result.inapplicable} of {problems}")
    value = "1.0" if least == 1.0 else f"{least:g} or more"
    for form, count in result.scored.items():
        wrong = sum(each.form == form for each in result.rejected)
        bare = f" ({result.bare} bare answers are scored as below only)" if form == "as given" and result.bare else ""
        table.add_row(form, f"{count - wrong} of {count} get {value}{bare}")
    console.print(table)
    for each in result.rejected[:MOST]:
        note = f": {each.note}" if each.note else ""
        console.print(Text(f"\n{each.problem_id}, {each.form}: {each.verdict}{note}"))
        console.print(Text(f"  {_short(each.text)}"))
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
        found = result.of_kind(kind)
        if not found:
            continue
        more = f", the first {MOST} of {len(found)}" if len(found) > MOST else ""
        console.print(Text(f"\n{kind}{more}", style="bold"))
        for verdict in found[:MOST]:
            case, note = verdict.case, verdict.component.note
            expected = "not applicable" if case.expected is None else f"{case.expected:g}"
            end = f", expected {expected}{f' ({note})' if note else ''}"
            console.print(Text(f"{case.problem.id}: {verdict_text(verdict.component)}{end}"))
            console.print(Text(f"  reference {_short(case.problem.answer)}\n  response  {_short(case.response.text)}"))


def _short(text: str) -> str:
    """A text on one line that fits; the end, where an answer is, is kept."""
    line = json.dumps(text, ensure_ascii=False)
    return line if len(line) <= 64 else f"{line[:20]} ... {line[-38:]}"
