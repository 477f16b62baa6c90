"""Every data source that a command uses: read, and rendered for the policy once there is a tokenizer.

read_sources --SourcesRead--> rendered(renderer) --SourcesRendered--> a run, or what `--dry-run` shows

A run has one task, or several (`[[mixture]]`, `[[evaluation.also]]`), whose problems know which one they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pluggy

from reasoner.config import Config, OfflineConfig
from reasoner.data.decontamination import keep_apart
from reasoner.data.offline import (
    OfflineData,
    OfflineRows,
    problem_of,
    read_offline,
    render_offline,
)
from reasoner.data.problems import Splits, example_turns, load_held_out, load_splits, overlap_policy
from reasoner.data.prompts.renderer import Renderer, open_renderer, render
from reasoner.data.prompts.template_date import NAME as DATE
from reasoner.data.prompts.template_date import reads_date, today
from reasoner.data.row_report import RowReport
from reasoner.data.turn_formats import TurnFormat, open_turn_format
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.environments.choose import choose
from reasoner.errors import ConfigError, DataError, SamplerError, UserError
from reasoner.gro.spec.terms import SOURCES, Source
from reasoner.planning.problem_checks import check_sample
from reasoner.planning.references import describe_references
from reasoner.plugins import manager as plugins
from reasoner.records import Problem, Prompt, SamplingParams
from reasoner.sampling.responses import all_end_tokens, end_tokens


@dataclass(frozen=True, slots=True)
class SourcesRendered:
    """The data of a command as the policy sees them, without the rows that cannot be used."""

    splits: Splits
    held_out: Sequence[Prompt]
    train: Sequence[Prompt]
    offline: Mapping[Source, OfflineData]


@dataclass(frozen=True, slots=True)
class TaskSources:
    """The problems of one task, before there is a tokenizer."""

    config: Config
    """of a run on it alone"""
    splits: Splits
    report: RowReport
    """collects the rows that cannot be used"""
    place: str
    """how messages begin that are about it; empty: the run has no other task"""

    def rendered(
        self, renderer: Renderer, apart_from: Sequence[Problem], ranks: Ranks
    ) -> tuple[Sequence[Prompt], Sequence[Prompt], tuple[str, ...]]:
        """The prompts to train on, those that are held out, and what is worth knowing.

        Args:
            apart_from: held-out questions of offline data, which are not trained on either.
        """
        config = self.config

        def prompts(problems: Sequence[Problem], section: str) -> list[Prompt]:
            return render(problems, renderer, config.sampling.max_prompt_tokens, self.report, section, ranks)

        of_held_out = "data.eval" if config.data.eval else "data.train"
        held_out, train = prompts(self.splits.eval, of_held_out), prompts(self.splits.train, "data.train")
        kept = {"data.eval": len(held_out), "data.train": len(train)}
        if of_held_out == "data.train":
            kept = {"data.train": len(held_out) + len(train)}
        for section, count in kept.items():
            self.report.keep(section, count)
        fresh, notes = keep_apart(
            train, lambda prompt: prompt.problem, apart_from, "data.train", "drop", example_turns(config.prompt)
        )
        return fresh, held_out, notes


@dataclass(frozen=True, slots=True)
class SourcesRead:
    """The data of a command, before there is a tokenizer."""

    tasks: Sequence[TaskSources]
    offline: Mapping[Source, OfflineRows]
    report: RowReport
    """of offline rows; of a run with one task, of all rows"""

    @property
    def splits(self) -> Splits:
        """The problems of all tasks."""
        return _joined([(task.place, task.splits) for task in self.tasks])

    def settle(self) -> tuple[str, ...]:
        """Sentences on rows that were left out, and what is worth knowing of them.

        Raises:
            DataError: there are rows that cannot be used, and they are refused.
        """
        notes: list[str] = []
        wrong: list[str] = []
        reports = [(task.place, task.report) for task in self.tasks]
        reports += [("", self.report)] if all(report is not self.report for _, report in reports) else []
        for place, report in reports:
            try:
                notes += [place + note for note in report.settle()]
            except DataError as error:
                wrong.append(f"{place}{error}")
        if wrong:
            raise DataError("\n".join(wrong))
        return tuple(notes)

    def rendered(
        self, config: Config, renderer: Renderer, renderer_of: Callable[[Config], Renderer], ranks: Ranks = ALONE
    ) -> SourcesRendered:
        """Everything as tokens; the caller settles the rows. All `ranks` call it together.

        Args:
            renderer: of the run, for offline data.
            renderer_of: makes that of a task.

        Raises:
            ConfigError: the prompt's or the chat template, or the tokenizer, does not fit.
            DataError: nothing is left of a source, or offline responses are to evaluation problems (`data.overlap`).
        """
        seed, share = config.run.seed, config.data.holdout
        data = {
            source: render_offline(rows, renderer, seed, share, self.report, ranks)
            for source, rows in self.offline.items()
        }
        # What is held out of offline data is not trained on with online responses either.
        asked = [problem_of(scored) for offline in data.values() for scored in offline.held_out]
        train: list[Prompt] = []
        held_out: list[Prompt] = []
        splits: list[tuple[str, Splits]] = []
        for task in self.tasks:
            of_run = task.config.model_copy(update={"model": config.model})  # which may have a date by now
            own = renderer if task.config.prompt is config.prompt else renderer_of(of_run)
            with _about(task.place):
                fresh, evaluated, notes = task.rendered(own, asked, ranks)
            train += fresh
            held_out += evaluated
            trained, held = (tuple(prompt.problem for prompt in prompts) for prompts in (fresh, evaluated))
            splits.append((task.place, Splits(trained, held, (*task.splits.notes, *notes))))
        joined = _joined(splits)
        return SourcesRendered(joined, held_out, train, _apart(config, data, (*joined.eval, *asked)))


def read_sources(config: Config, manager: pluggy.PluginManager, *, training: bool) -> SourcesRead:
    """What a training or an evaluation reads; rows that cannot be used are collected (`SourcesRead.settle`).

    Raises:
        DataError: a source is missing, empty, or malformed as a whole, training problems are evaluation problems
            (`data.overlap`), or problems of two tasks have the same id.
        ConfigError: a template, a generator, or the configuration does not fit.
    """
    generators, seed = plugins.generators(manager), config.run.seed
    report = RowReport(config.data.on_bad_row)
    tasks: list[TaskSources] = []
    for name, task in (config.evaluated if training else {config.task: config}).items():
        place = _place(config, name)
        own = TaskSources(
            task,
            Splits((), (), ()),
            RowReport(task.data.on_bad_row) if place else report,
            f"{place}.{name}: " if place else "",
        )
        with _about(own.place):
            splits = _read_task(own, name, manager, training=training and name not in config.also)
        tasks.append(replace(own, splits=splits))
    offline: dict[Source, OfflineRows] = {
        source: read_offline(
            source, getattr(config.data, source), config.prompt, generators, seed, config.data.holdout, report
        )
        for source in SOURCES
        if training and source != "online" and config.gro.reads(source)
    }
    _refuse_equal_ids([task for task in tasks if task.splits.train])
    return SourcesRead(_tasks_apart(tasks), offline, report)


def _place(config: Config, name: str) -> str:
    """The list that a task of a run is in; empty: it is the run's only one."""
    return "mixture" if config.mixture and name in config.parts else "evaluation.also" if name in config.also else ""


def _read_task(task: TaskSources, name: str, manager: pluggy.PluginManager, *, training: bool) -> Splits:
    config = task.config
    generators, needs_answer = plugins.generators(manager), answers_needed(config, manager)
    if training and config.online:
        splits = load_splits(
            config.data, config.prompt, generators, config.run.seed, task.report, needs_answer=needs_answer
        )
    else:
        held_out = load_held_out(config.data, config.prompt, generators, task.report, needs_answer=needs_answer)
        splits = Splits((), held_out, ())
    train, evaluated = (
        tuple(replace(problem, part=name) for problem in problems) for problems in (splits.train, splits.eval)
    )
    return Splits(train, evaluated, splits.notes)


def _refuse_equal_ids(tasks: Sequence[TaskSources]) -> None:
    """Problems are known by their ids, in a step, in the curriculum and in what is saved."""
    for kind in ("train", "eval"):
        owner: dict[str, str] = {}
        for task in tasks:
            name = task.config.task
            for problem in getattr(task.splits, kind):
                if owner.setdefault(problem.id, name) != name:
                    raise DataError(
                        f"mixture: {owner[problem.id]} and {name} both have a problem {problem.id!r} in data.{kind}. "
                        "Ids are made of the file's name, or of a generator and its seed, and of the row: rename a "
                        f"file, or set another mixture.{name}.data.{kind}.seed."
                    )


def _tasks_apart(tasks: Sequence[TaskSources]) -> Sequence[TaskSources]:
    """What is trained on in one task is not evaluated on in another."""
    apart = []
    for task in tasks:
        others = [
            replace(problem, messages=problem.messages[len(examples) :])
            if (examples := example_turns(other.config.prompt)) and problem.messages[: len(examples)] == examples
            else problem
            for other in tasks
            if other is not task and task.splits.train
            for problem in map(_without_system, other.splits.eval)
        ]
        if others and task.config.data.train:
            policy = overlap_policy(task.config.data, task.config.data.train)
            examples = example_turns(task.config.prompt)
            with _about(task.place):
                train, notes = keep_apart(task.splits.train, _itself, others, "data.train", policy, examples)
            task = replace(task, splits=Splits(train, task.splits.eval, (*task.splits.notes, *notes)))
        apart.append(task)
    return apart


def _without_system(problem: Problem) -> Problem:
    return replace(problem, messages=tuple(message for message in problem.messages if message.role != "system"))


def _itself(problem: Problem) -> Problem:
    return problem


def _joined(splits: Sequence[tuple[str, Splits]]) -> Splits:
    return Splits(
        tuple(problem for _, split in splits for problem in split.train),
        tuple(problem for _, split in splits for problem in split.eval),
        tuple(place + note for place, split in splits for note in split.notes),
    )


@contextmanager
def _about(place: str) -> Iterator[None]:
    """Messages that are about one task of several say so."""
    try:
        yield
    except (ConfigError, DataError) as error:
        if not place:
            raise
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(f"{place}{error}") from error


def answers_needed(config: Config, manager: pluggy.PluginManager) -> bool:
    """Whether a reward source of the task compares with reference answers."""
    sources = plugins.reward_sources(manager)
    return not config.rewards or any(sources[reward.source].compares(reward.options) for reward in config.rewards)


def check_problems_of(config: Config, manager: pluggy.PluginManager, splits: Splits) -> dict[str, str]:
    """What became of trying a few of the problems with each reward source: facts of a run's plan.

    Raises:
        UserError: a source cannot judge one of them as it should.
    """
    sources, facts = plugins.reward_sources(manager), dict[str, str]()
    for name, task, problems in _problems_by_task(config, splits):
        for reward in task.rewards:
            words = check_sample(sources[reward.source], reward.options, problems, config.run.seed)
            facts |= {f"problems of {reward.source}{name}": words} if words else {}
    return facts


def references_of(config: Config, manager: pluggy.PluginManager, splits: Splits) -> dict[str, str]:
    """How the reward sources read the problems' references: facts of a run's plan.

    Raises:
        UserError: a source cannot compare with more of them than may fail (`scoring.max_failure_rate`).
    """
    facts: dict[str, str] = {}
    for name, task, problems in _problems_by_task(config, splits):
        described = describe_references(
            task.rewards, plugins.reward_sources(manager), problems, config.scoring.max_failure_rate
        )
        facts |= {key + name: words for key, words in described.items()}
    return facts


def _problems_by_task(config: Config, splits: Splits) -> Iterator[tuple[str, Config, list[Problem]]]:
    """How facts of each task end, its configuration, and its problems."""
    problems = [*splits.train, *splits.eval]
    if not config.mixture and not config.also:
        yield "", config, problems
        return
    for name, task in config.evaluated.items():
        yield f" in {name}", task, [problem for problem in problems if problem.part == name]


def with_date(config: Config, tokenizer: Any, ranks: Ranks = ALONE) -> Config:
    """With the date that the chat template writes, where it writes one and none is set: today, that of the first
    rank. Plain prompts go through no chat template, and a configuration of them with its arguments is refused."""
    kwargs = config.model.chat_template_kwargs
    is_plain = all(task.prompt.format == "plain" for task in config.parts.values())  # as those of `also` are, or none
    if is_plain or DATE in kwargs or not reads_date(kwargs.get("chat_template") or tokenizer.chat_template):
        return config
    kwargs = {**kwargs, DATE: ranks.broadcast(today())}
    return config.model_copy(update={"model": config.model.model_copy(update={"chat_template_kwargs": kwargs})})


def renderer_of(config: Config, tokenizer: Any, turn_formats: Mapping[str, TurnFormat]) -> Renderer:
    """What writes the prompts of a task; where it has tools, they are told of them.

    Raises:
        ConfigError: the tokenizer has no chat template, and one is needed.
    """
    if turn_format := turn_formats.get(config.task):
        return turn_format.renderer
    return open_renderer(tokenizer, config.prompt, config.model.chat_template_kwargs)


def open_formats(
    config: Config, manager: pluggy.PluginManager, tokenizer: Any, folder: Path | None
) -> dict[str, TurnFormat]:
    """How the tools and the environment of each task that has some speak with the policy, with what writes its prompts.

    Args:
        folder: of the model; None: it is not here, and the tokenizer's end token alone is known.

    Raises:
        ConfigError: a tool, an environment or one of their options is wrong, or the model's chat template cannot write
            turns in this format.
    """
    ends = () if folder is None else end_tokens(folder, tokenizer)
    found = {}
    for name, environment in config.environments.items():
        with _about(f"{place}.{name}: " if (place := _place(config, name)) else ""):
            chosen = choose(environment, plugins.tools(manager), plugins.environments(manager))
            found[name] = open_turn_format(
                environment.format,
                tokenizer,
                config.part(name).prompt,
                config.model.chat_template_kwargs,
                [tool.description for tool in chosen.tools.values()],
                ends,
            )
            found[name].check()
    return found


def format_facts(config: Config, turn_formats: Mapping[str, TurnFormat]) -> dict[str, str]:
    """What is worth knowing of the formats: facts of a run's plan."""
    return {
        f"{key} in {name}" if _place(config, name) else key: words
        for name, turn_format in turn_formats.items()
        for key, words in turn_format.facts().items()
    }


def response_end(config: Config, tokenizer: Any, renderer: Renderer, folder: Path | None) -> str:
    """Where responses end, in words: a fact of a run's plan.

    Args:
        folder: of the model; None: it is not here, and the tokenizer's end token alone is known.

    Raises:
        UserError: nothing ends them.
    """
    own: Collection[int] = {tokenizer.eos_token_id} - {None} if folder is None else end_tokens(folder, tokenizer)
    params = renderer.turn_end().added_to(SamplingParams(0.0, 1, tuple(config.sampling.stop)))
    try:
        all_end_tokens(own, params)
    except SamplerError as error:
        raise UserError(f"model.path = {config.model.path!r}: {error}") from None
    fact = renderer.end_of_turn_fact(own)
    return f"before {list(config.sampling.stop)} (sampling.stop), and {fact}" if config.sampling.stop else fact


def _apart(
    config: Config, data: Mapping[Source, OfflineData], evaluated: Sequence[Problem]
) -> dict[Source, OfflineData]:
    """What is trained on of every source, without what is evaluated on: evaluation problems, and what is held out of
    this or another source."""
    apart: dict[Source, OfflineData] = {}
    for source, offline in data.items():
        wanted: OfflineConfig = getattr(config.data, source)
        # Problems that were held out were chosen here, and are no mistake of the data.
        policy = overlap_policy(config.data, wanted) if config.data.holdout is None else "drop"
        groups, notes = keep_apart(
            offline.groups, problem_of, evaluated, f"data.{source}", policy, example_turns(config.prompt)
        )
        apart[source] = replace(offline, groups=groups, notes=(*offline.notes, *notes))
    return apart
