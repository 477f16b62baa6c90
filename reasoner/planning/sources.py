"""Every data source that a command uses: read, and rendered for the policy once there is a tokenizer.

read_sources --SourcesRead--> rendered(renderer) --SourcesRendered--> a run, or what `--dry-run` shows
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from reasoner.data.row_report import RowReport
from reasoner.data.turn_formats import TurnFormat, open_turn_format
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.environments.choose import choose
from reasoner.errors import SamplerError, UserError
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
class SourcesRead:
    """The data of a command, before there is a tokenizer."""

    splits: Splits
    offline: Mapping[Source, OfflineRows]

    def rendered(self, config: Config, renderer: Renderer, report: RowReport, ranks: Ranks = ALONE) -> SourcesRendered:
        """Everything as tokens; the caller settles the report. All `ranks` call it together.

        Raises:
            ConfigError: the prompt's or the chat template, or the tokenizer, does not fit.
            DataError: nothing is left of a source, or offline responses are to evaluation problems (`data.overlap`).
        """

        def prompts(problems: Sequence[Problem], section: str) -> list[Prompt]:
            return render(problems, renderer, config.sampling.max_prompt_tokens, report, section, ranks)

        of_held_out = "data.eval" if config.data.eval else "data.train"
        held_out, train = prompts(self.splits.eval, of_held_out), prompts(self.splits.train, "data.train")
        kept = {"data.eval": len(held_out), "data.train": len(train)}
        if of_held_out == "data.train":
            kept = {"data.train": len(held_out) + len(train)}
        for section, count in kept.items():
            report.keep(section, count)
        seed, share = config.run.seed, config.data.holdout
        data = {source: render_offline(rows, renderer, seed, share, report) for source, rows in self.offline.items()}
        # What is held out of offline data is not trained on with online responses either.
        asked = [problem_of(scored) for offline in data.values() for scored in offline.held_out]
        examples = example_turns(config.prompt)
        fresh, notes = keep_apart(train, lambda prompt: prompt.problem, asked, "data.train", "drop", examples)
        evaluated = tuple(prompt.problem for prompt in held_out)
        splits = Splits(tuple(prompt.problem for prompt in fresh), evaluated, (*self.splits.notes, *notes))
        return SourcesRendered(splits, held_out, fresh, _apart(config, data, (*evaluated, *asked)))


def read_sources(config: Config, manager: pluggy.PluginManager, report: RowReport, *, training: bool) -> SourcesRead:
    """What a training or an evaluation reads.

    Args:
        report: collects rows that cannot be used; the caller settles it.

    Raises:
        DataError: a source is missing, empty, or malformed as a whole, or training problems are evaluation problems
            (`data.overlap`).
        ConfigError: a template, a generator, or the configuration does not fit.
    """
    generators, seed = plugins.generators(manager), config.run.seed
    needs_answer = answers_needed(config, manager)
    splits = Splits((), (), ())
    if training and config.online:
        splits = load_splits(config.data, config.prompt, generators, seed, report, needs_answer=needs_answer)
    elif not training or config.has_sampler:
        held_out = load_held_out(config.data, config.prompt, generators, report, needs_answer=needs_answer)
        splits = Splits((), held_out, ())
    offline: dict[Source, OfflineRows] = {
        source: read_offline(
            source, getattr(config.data, source), config.prompt, generators, seed, config.data.holdout, report
        )
        for source in SOURCES
        if training and source != "online" and config.gro.reads(source)
    }
    return SourcesRead(splits, offline)


def answers_needed(config: Config, manager: pluggy.PluginManager) -> bool:
    """Whether a reward source of the task compares with reference answers."""
    sources = plugins.reward_sources(manager)
    return not config.rewards or any(sources[reward.source].compares(reward.options) for reward in config.rewards)


def check_problems_of(config: Config, manager: pluggy.PluginManager, splits: Splits) -> dict[str, str]:
    """What became of trying a few of the problems with each reward source: facts of a run's plan.

    Raises:
        UserError: a source cannot judge one of them as it should.
    """
    sources, problems = plugins.reward_sources(manager), [*splits.train, *splits.eval]
    answers = {
        reward.source: check_sample(sources[reward.source], reward.options, problems, config.run.seed)
        for reward in config.rewards
    }
    return {f"problems of {source}": words for source, words in answers.items() if words}


def references_of(config: Config, manager: pluggy.PluginManager, splits: Splits) -> dict[str, str]:
    """How the reward sources read the problems' references: facts of a run's plan.

    Raises:
        UserError: a source cannot compare with more of them than may fail (`scoring.max_failure_rate`).
    """
    problems, most = [*splits.train, *splits.eval], config.scoring.max_failure_rate
    return describe_references(config.rewards, plugins.reward_sources(manager), problems, most)


def plain_renderer(config: Config, tokenizer: Any) -> Renderer:
    """What writes the prompts of a task without tools and environment.

    Raises:
        ConfigError: the tokenizer has no chat template, and one is needed.
    """
    return open_renderer(tokenizer, config.prompt, config.model.chat_template_kwargs)


def open_format(
    config: Config, manager: pluggy.PluginManager, tokenizer: Any, folder: Path | None
) -> TurnFormat | None:
    """How tools and the environment speak with the policy, with what writes its prompts; None: there are none.

    Args:
        folder: of the model; None: it is not here, and the tokenizer's end token alone is known.

    Raises:
        ConfigError: a tool, an environment or one of their options is wrong, or the tokenizer has no chat template and
            one is needed.
    """
    if config.environment is None:
        return None
    chosen = choose(config.environment, plugins.tools(manager), plugins.environments(manager))
    return open_turn_format(
        config.environment.format,
        tokenizer,
        config.prompt,
        config.model.chat_template_kwargs,
        [tool.description for tool in chosen.tools.values()],
        () if folder is None else end_tokens(folder, tokenizer),
    )


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
