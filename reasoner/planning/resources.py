"""What a run is made of: its data and the folders of its models, found and read before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from reasoner.config import Config, OfflineConfig
from reasoner.config.decisions import Decisions
from reasoner.data.mixture import weights_of
from reasoner.data.offline import OfflineData
from reasoner.data.problems import Stream
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.data.prompts.vocabulary import check_token_ids
from reasoner.data.turn_formats import TurnFormat
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.gro.spec.terms import Source
from reasoner.io.safe_text import printable
from reasoner.loading import Resolved
from reasoner.models.hub import offline_fact
from reasoner.models.loading import check_weights, check_weights_at_hand
from reasoner.models.resolve import folder_at_hand, resolve_model
from reasoner.models.size import ModelSize
from reasoner.models.tokenizer import open_tokenizer
from reasoner.planning.describe import describe_offline, describe_plan
from reasoner.planning.estimate import RunEstimate
from reasoner.planning.memory.needs import Need, needs
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
from reasoner.planning.teacher import check_same_tokenizer, teacher_prompts
from reasoner.processes.machine import this_machine
from reasoner.records import Problem, Prompt, ScoredGroup
from reasoner.runs.checksums import identify
from reasoner.runs.folder import MINIMUM_FREE
from reasoner.sampling.factory import check_sampler


@dataclass(frozen=True)
class Resources:
    """The data and the models' folders."""

    config: Config
    manager: pluggy.PluginManager
    facts: Mapping[str, str]
    """what was chosen, and why"""
    decisions: Decisions
    """what was left open: device, engines, how an adapter goes to the sampler"""
    folder: Path
    """of the model"""
    critic_folder: Path
    teacher_folder: Path
    """of the teacher; the model's where there is no other"""
    teacher_prompts: Mapping[str, tuple[int, ...]]
    """problem id -> what a teacher reads who sees the solution; empty: what the policy reads"""
    held_out: Sequence[Prompt]
    train: Sequence[Prompt]
    problems: Mapping[str, Stream[Problem]]
    """The order of `train` by task; empty: no term reads online groups."""
    offline: Mapping[Source, OfflineData]
    streams: Mapping[Source, Stream[ScoredGroup]]
    """the groups of `offline` by step"""
    turn_end: TurnEnd
    """what ends a response beside the model's own end tokens"""
    turn_formats: Mapping[str, TurnFormat]
    """how tools and an environment speak with the policy, by task; a response to a problem of another is one turn"""
    ranks_of_node: int
    """as `Ranks.on_node`"""

    def identity(self) -> dict[str, str]:
        """Checksums of all that (see `checksums.identify`)."""
        models = {"model": self.folder} | ({"critic": self.critic_folder} if self.config.gro.needs_critic else {})
        models |= {"teacher": self.teacher_folder} if self.config.gro.needs_teacher else {}
        data: dict[str, Sequence[object]] = {"data.train": self.train, "data.eval": self.held_out}
        data |= {f"data.{source}": offline.groups for source, offline in self.offline.items()}
        used = {name: records for name, records in data.items() if records}
        return identify(models, used, self.config.plugins, self.decisions.engine)

    @property
    def estimate(self) -> RunEstimate:
        """What training takes of memory and disk, and what is free here now."""
        policy, critic = ModelSize.of(self.folder, self.config.lora), ModelSize.of(self.critic_folder)
        teacher = ModelSize.of(self.teacher_folder) if self.config.loads_teacher else None
        machine = this_machine(self.decisions.device, self.ranks_of_node)
        return RunEstimate(self.config, policy, critic, machine, self.decisions.engine, teacher).decided

    @property
    def evaluation_needs(self) -> tuple[Need, ...]:
        """What an evaluation takes of memory."""
        model = ModelSize.of(self.folder)
        return needs(
            self.config, model, model, this_machine(self.decisions.device), self.decisions.engine, training=False
        )

    @property
    def reserve_bytes(self) -> int:
        """What a training run needs on the disk at most, large files only."""
        return MINIMUM_FREE + self.estimate.disk_bytes


def load_resources(
    resolved: Resolved, decisions: Decisions, *, training: bool, ranks: Ranks = ALONE, first_start: str = ""
) -> Resources:
    """Read the data and find the models.

    Args:
        ranks: those that train together; all of them call this.
        first_start: see `with_date`.

    Raises:
        UserError: they are not as they must be.
    """
    config = resolved.config
    manager = resolved.manager
    read = read_sources(config, manager, training=training)
    checks: dict[str, str] | None = None
    if folder_at_hand(config.model.path) is None:  # before a model is downloaded or converted, which takes longer
        read.settle()
        checks = check_problems_of(config, manager, read.splits)
    facts = describe_plan(resolved, read.splits, decisions, training=training)
    # Before there is a view: an embedded model is converted, or one from the hub downloaded, when it is used for the
    # first time.
    print(printable(f"preparing model {facts['model']}"), flush=True)  # noqa: T201
    folder = resolve_model(config.model.path)
    engine = decisions.engine
    if engine:
        check_sampler(config, folder, decisions)
    tokenizer = open_tokenizer(folder, config.model.trust_remote_code)
    if training or engine == "hf":
        check_weights(folder, config.model.trust_remote_code)
    config = with_date(config, tokenizer, ranks, first_start)
    turn_formats = open_formats(config, manager, tokenizer, folder)
    renderer = renderer_of(config, tokenizer, turn_formats)
    data = read.rendered(config, renderer, partial(renderer_of, tokenizer=tokenizer, turn_formats=turn_formats), ranks)
    data = replace(data, splits=replace(data.splits, notes=(*read.settle(), *data.splits.notes)))
    if checks is None:
        checks = check_problems_of(config, manager, data.splits)
    facts = {**describe_plan(resolved, data.splits, decisions, training=training), **checks}
    facts |= _data_facts(config, manager, data)
    facts |= renderer.facts() | format_facts(config, turn_formats)
    if engine:
        facts["responses end"] = response_end(config, tokenizer, renderer, folder)
    has_critic = training and config.gro.needs_critic
    critic_folder = _critic_folder(config, folder) if has_critic else folder
    teacher_folder = _teacher_folder(config, folder, tokenizer) if training else folder
    sequences = [*_sequences([*data.held_out, *data.train], data.offline)]
    check_token_ids(folder, tokenizer, sequences)
    if has_critic and config.critic.path:
        check_token_ids(critic_folder, tokenizer, sequences, "critic.path")
    if training and config.teacher.path:
        check_token_ids(teacher_folder, tokenizer, sequences, "teacher.path")
    return Resources(
        config=config,
        manager=manager,
        facts=facts,
        decisions=decisions,
        folder=folder,
        critic_folder=critic_folder,
        teacher_folder=teacher_folder,
        teacher_prompts=_teacher_prompts(config, data.train, tokenizer, turn_formats, teacher_folder)
        if training
        else {},
        held_out=data.held_out,
        train=data.train,
        problems=_problems(config, data.train) if training and config.online else {},
        offline=data.offline,
        streams={source: _stream(config, source, offline) for source, offline in data.offline.items()},
        turn_end=renderer.turn_end(),
        turn_formats=turn_formats,
        ranks_of_node=ranks.on_node,
    )


def _data_facts(config: Config, manager: pluggy.PluginManager, data: SourcesRendered) -> dict[str, str]:
    """How the references are read, what the offline data are, and whether the hub is left out."""
    facts = {**references_of(config, manager, data.splits)}
    facts |= {f"data.{source}": describe_offline(config, source, offline) for source, offline in data.offline.items()}
    return facts | ({"hub": offline_fact()} if offline_fact() else {})


def _critic_folder(config: Config, folder: Path) -> Path:
    """The folder of the critic's initial weights: the model's where `critic.path` names none.

    Raises:
        UserError: there is no such model, or its weights cannot be loaded.
    """
    critic_folder = resolve_model(config.critic.path) if config.critic.path else folder
    check_weights(critic_folder, config.model.trust_remote_code, head=False)
    return critic_folder


def _teacher_folder(config: Config, folder: Path, tokenizer: Any) -> Path:
    """The folder of the teacher, or of the model where it is the teacher or there is none.

    Raises:
        UserError: there is no such model, or its tokenizer is another one.
    """
    path, trusted = config.teacher.path, config.model.trust_remote_code
    if path is None:
        return folder
    resolved = resolve_model(path)
    check_same_tokenizer(tokenizer, open_tokenizer(resolved, trusted), path)
    if config.loads_teacher:
        check_weights(resolved, trusted)
    return resolved


def _teacher_prompts(
    config: Config, train: Sequence[Prompt], tokenizer: Any, turn_formats: Mapping[str, TurnFormat], folder: Path
) -> dict[str, tuple[int, ...]]:
    """What a teacher who sees the solution reads, written as the prompts of each task are; empty: it sees none."""
    found: dict[str, tuple[int, ...]] = {}
    for name, task in config.parts.items() if config.gro.teacher_sees == "solution" else ():
        own = [prompt for prompt in train if prompt.problem.part == name]
        found |= teacher_prompts(task, own, renderer_of(task, tokenizer, turn_formats), folder)
    return found


def check_models_at_hand(config: Config, decisions: Decisions | None = None) -> None:
    """What `load_resources` refuses of a training's models, as far as they are on this machine: nothing is downloaded,
    converted or loaded.

    Args:
        decisions: for this machine; None: the models are for another one, whose sampler cannot be asked.

    Raises:
        UserError: they are not as they must be.
    """
    trusted = config.model.trust_remote_code
    if decisions and decisions.engine and (folder := folder_at_hand(config.model.path)):
        check_sampler(config, folder, decisions)
    check_weights_at_hand(config.model.path, trusted)
    if config.gro.needs_critic:
        check_weights_at_hand(config.critic.path or config.model.path, trusted, head=False)
    if config.loads_teacher and config.teacher.path:
        check_weights_at_hand(config.teacher.path, trusted)


def _sequences(prompts: Sequence[Prompt], offline: Mapping[Source, OfflineData]) -> Iterator[tuple[str, Sequence[int]]]:
    """All token ids of a run that no model sampled, and what they are of."""
    for prompt in prompts:
        yield f"the prompt of problem {prompt.problem.id}", prompt.token_ids
    for data in offline.values():
        for scored in (*data.groups, *data.held_out):
            yield f"the prompt of {scored.group.problem.id}", scored.group.prompt_ids
            for response in scored.group.responses:
                yield f"a response to {scored.group.problem.id}", response.token_ids


def _problems(config: Config, prompts: Sequence[Prompt]) -> dict[str, Stream[Problem]]:
    """The problems of each task. A step must be able to have its share of them, all different."""
    by_task: dict[str, list[Problem]] = {name: [] for name in config.parts}
    for prompt in prompts:
        by_task[prompt.problem.part].append(prompt.problem)
    weights = weights_of(config, {name: len(problems) for name, problems in by_task.items()})
    whole, per_step = sum(weights.values()), config.learning.problems_per_step
    streams = {}
    for name, problems in by_task.items():
        train = config.parts[name].data.train
        streams[name] = Stream(
            problems,
            math.ceil(per_step * weights[name] / whole),
            config.run.seed if train and train.shuffle else None,
            section=f"mixture.{name}.data.train" if config.mixture else "data.train",
            key="the part's share of learning.problems_per_step" if config.mixture else "learning.problems_per_step",
        )
    return streams


def _stream(config: Config, source: Source, data: OfflineData) -> Stream[ScoredGroup]:
    offline: OfflineConfig = getattr(config.data, source)
    seed = config.run.seed if offline.shuffle else None
    return Stream(data.groups, config.per_step(source), seed, section=f"data.{source}", key=f"data.{source}.per_step")
