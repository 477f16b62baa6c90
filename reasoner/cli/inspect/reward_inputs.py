"""What the commands that try a reward source share: its service, the problems of a task, and its options there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pluggy

from reasoner.cli.console import print_preflights, warn
from reasoner.cli.inspect.reward_options import parse_options
from reasoner.config import Config, RewardConfig, ScoringConfig
from reasoner.data.problems import ProblemLoader
from reasoner.data.row_report import RowReport
from reasoner.data.row_selection import HELD_OUT_SEED
from reasoner.errors import ConfigError
from reasoner.loading import Resolved, load_config
from reasoner.planning.preflight import preflight
from reasoner.planning.sources import answers_needed
from reasoner.plugins import manager as hooks
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.records import Problem
from reasoner.scoring.service import ScoringService


@contextmanager
def source_service(
    reward: RewardConfig, scoring: ScoringConfig, plugins: Sequence[str], manager: pluggy.PluginManager
) -> Iterator[ScoringService]:
    """Workers for one source that make every call; no number of failures stops them: they are what is looked for."""
    print_preflights(preflight([reward], manager))
    scoring = scoring.model_copy(update={"max_failure_rate": 1.0, "cache": 0})
    with interruptible(), guard_processes(), ScoringService([reward], scoring, plugins, warn) as service:
        yield service


def task_config(task: str, profile: str | None, sets: list[str] | None, plugin: list[str] | None) -> Resolved:
    """The task with what the command line lays over it."""
    return load_config(task, profile, sets=sets or (), plugins=plugin or ())


def task_problems(config: Config, manager: pluggy.PluginManager) -> list[Problem]:
    """The training and evaluation problems, those that are in both once."""
    problems: dict[tuple[object, str], Problem] = {}
    report = RowReport(config.data.on_bad_row)
    load = ProblemLoader(config.prompt, hooks.generators(manager), report, needs_answer=answers_needed(config, manager))
    train = load.problems(config.data.train, config.run.seed, "data.train") if config.data.train else ()
    held_out = load.problems(config.data.eval, HELD_OUT_SEED, "data.eval") if config.data.eval else ()
    report.settle()
    for problem in (*train, *held_out):
        problems.setdefault((problem.messages, problem.answer), problem)
    if not problems:
        raise ConfigError(f"task {config.task!r} has neither data.train nor data.eval: there is no reference answer.")
    return list(problems.values())


def reward_of(config: Config, name: str, chosen: str | None) -> RewardConfig:
    """The source with the task's own options and deadline, and the options laid over them; alone, so no condition."""
    own = next((reward for reward in config.rewards if reward.source == name), RewardConfig(source=name))
    return RewardConfig(source=name, options={**own.options, **parse_options(chosen)}, timeout_s=own.timeout_s)


def correctness_threshold(config: Config, name: str) -> float:
    """The value from which on a response is correct by the source."""
    evaluation = config.evaluation
    return evaluation.threshold if evaluation is not None and evaluation.correct == name else 1.0


def short_text(text: str) -> str:
    """A text on one line that fits; the end, where an answer is, is kept."""
    line = json.dumps(text, ensure_ascii=False)
    return line if len(line) <= 64 else f"{line[:20]} ... {line[-38:]}"
