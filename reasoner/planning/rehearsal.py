"""What a command would read and how the policy would see it, without a model: for `--dry-run` and `tasks show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from reasoner.config import Config, RewardConfig
from reasoner.data.offline import OfflineData
from reasoner.data.problems import Splits
from reasoner.errors import MissingDependencyError, UserError
from reasoner.gro.spec.terms import Source
from reasoner.models.resolve import local_file
from reasoner.models.tokenizer import open_tokenizer_alone
from reasoner.planning.describe import describe_offline
from reasoner.planning.sources import (
    SourcesRendered,
    check_problems_of,
    format_facts,
    open_formats,
    read_sources,
    references_of,
    renderer_of,
    response_end,
    with_date,
)
from reasoner.plugins import manager as plugins
from reasoner.plugins.reward_api import RewardSource
from reasoner.records import Problem, ScoredGroup

EDGE = 12
"""tokens that are shown of each end of a prompt"""
LONGEST = 4000
"""characters of a text that are shown"""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The data of a command, as far as there are any without the model."""

    config: Config
    splits: Splits
    offline: Mapping[Source, OfflineData]
    facts: Mapping[str, str]
    """what became of reading, rendering and trying them, for the plan"""
    rendered: SourcesRendered | None
    """None: the model's tokenizer is not here"""
    tokenizer: Any
    sources: Mapping[str, RewardSource]

    def samples(self, count: int) -> Iterator[str]:
        """The first prompts as the policy sees them, each with what it is compared with or continued by."""
        tokens = {}
        if self.rendered:
            prompts = (*self.rendered.train, *self.rendered.held_out)
            tokens = {(prompt.problem.part, prompt.problem.id): prompt.token_ids for prompt in prompts}
        for name in dict.fromkeys(problem.part for problem in (*self.splits.train, *self.splits.eval)):
            train, held_out = (
                [problem for problem in problems if problem.part == name]
                for problems in (self.splits.train, self.splits.eval)
            )
            for problem in (train or held_out)[:count]:
                rewards = self.config.part(problem.part).rewards
                prompt = self._prompt(problem, tokens.get((problem.part, problem.id)))
                yield "\n".join([*prompt, *_reference(problem, rewards, self.sources)])
        for data in self.offline.values():
            for scored in data.groups[:count]:
                shown = self._prompt(scored.group.problem, scored.group.prompt_ids)
                yield "\n".join([*shown, *self._responses(scored)])

    def _prompt(self, problem: Problem, ids: Sequence[int] | None) -> list[str]:
        if ids is None:
            if self.config.prompt.format == "plain":
                return [f"prompt of {problem.id}:", *_indented(_cut(problem.messages[0].content))]
            turns = [f"[{message.role}] {_cut(message.content)}" for message in problem.messages]
            return [f"prompt of {problem.id}, before the chat template:", *_indented("\n".join(turns))]
        text = _cut(self.tokenizer.decode(ids))
        return [f"prompt of {problem.id}, {len(ids):,} tokens:", *_indented(text), f"tokens: {self._pieces(ids)}"]

    def _pieces(self, ids: Sequence[int]) -> str:
        pieces = [repr(self.tokenizer.decode([id_])) for id_ in (ids if len(ids) <= 2 * EDGE else ids[:EDGE])]
        if len(ids) > 2 * EDGE:
            pieces += ["...", *(repr(self.tokenizer.decode([id_])) for id_ in ids[-EDGE:])]
        return " ".join(pieces)

    def _responses(self, scored: ScoredGroup) -> Iterator[str]:
        for response, reward in zip(scored.group.responses, scored.rewards, strict=True):
            yield f"response with reward {reward:g}, {len(response.token_ids):,} tokens:"
            yield from _indented(_cut(response.text))


def rehearse(config: Config, manager: pluggy.PluginManager, *, training: bool = True) -> Rehearsal:
    """Read every source that the command reads, render it where the model's tokenizer can be had, and try what a run
    tries before it loads anything.

    Raises:
        UserError: what a run would say of them.
    """
    read = read_sources(config, manager, training=training)
    facts: dict[str, str] = {}
    tokenizer, rendered = None, None
    try:
        tokenizer = open_tokenizer_alone(config.model.path, config.model.trust_remote_code)
    except (UserError, MissingDependencyError) as error:
        facts["prompts"] = f"not rendered: {error}"
    if tokenizer is not None:
        config = with_date(config, tokenizer)
        turn_formats = open_formats(config, manager, tokenizer, _folder(config.model.path))
        renderer = renderer_of(config, tokenizer, turn_formats)
        rendered = read.rendered(config, renderer, partial(renderer_of, tokenizer=tokenizer, turn_formats=turn_formats))
        facts |= renderer.facts() | format_facts(config, turn_formats)
        if config.has_sampler or not training:
            facts["responses end"] = response_end(config, tokenizer, renderer, _folder(config.model.path))
    notes = read.settle()
    splits = rendered.splits if rendered else read.splits
    if rendered:
        facts |= _lengths(rendered)
    facts |= check_problems_of(config, manager, splits) | references_of(config, manager, splits)
    offline = rendered.offline if rendered else {}
    facts |= {f"data.{source}": describe_offline(config, source, data) for source, data in offline.items()}
    facts |= {
        rows.section: f"{len(rows.written):,} rows read"
        for source, rows in read.offline.items()
        if source not in offline
    }
    splits = Splits(splits.train, splits.eval, (*notes, *splits.notes))
    return Rehearsal(config, splits, offline, facts, rendered, tokenizer, plugins.reward_sources(manager))


def _folder(model: str) -> Path | None:
    """Where the model's settings are, as far as they are here."""
    file = local_file(model, "generation_config.json") or local_file(model, "config.json")
    return file.parent if file else None


def _lengths(rendered: SourcesRendered) -> dict[str, str]:
    """How long the prompts are, in tokens."""
    lengths = sorted((len(prompt.token_ids), prompt.problem.id) for prompt in (*rendered.train, *rendered.held_out))
    if not lengths:
        return {}
    (shortest, _), (middle, _), (longest, id_) = lengths[0], lengths[len(lengths) // 2], lengths[-1]
    return {"prompts": f"{shortest:,} to {longest:,} tokens, {middle:,} in the middle; the longest is {id_}"}


def _reference(problem: Problem, rewards: Sequence[RewardConfig], sources: Mapping[str, RewardSource]) -> Iterator[str]:
    """The reference as the row has it, and as each source that says so reads it."""
    yield f"reference: {_cut(problem.answer)!r}" if problem.answer else "reference: none"
    for reward in rewards:
        source = sources[reward.source]
        if source.reads is None:
            continue
        try:
            kind, text = source.reads(problem, source.options.model_validate(source.check_options(reward.options)))
        except ValueError as error:
            yield f"{source.name} cannot compare with it: {error}"
        else:
            yield f"{source.name} reads {text!r} ({kind})"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.split("\n")]
