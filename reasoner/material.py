"""What a run is made of: its data and the folders of its models, found and read before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pluggy

from reasoner import plugins
from reasoner.chat_probe import TurnEnd
from reasoner.config import Config, OfflineConfig
from reasoner.data import Splits, Stream, load_held_out, load_splits, overlap_policy
from reasoner.errors import ConfigError, SamplerError, UserError
from reasoner.estimate import Estimate
from reasoner.gro.terms import SOURCES, Source
from reasoner.hookspecs import Generator
from reasoner.hub import said_offline
from reasoner.machine import this_machine
from reasoner.memory import Need, needs
from reasoner.model_size import ModelSize
from reasoner.models import open_tokenizer, resolve_device, resolve_model
from reasoner.offline import Kind, OfflineData, load_offline
from reasoner.overlap import keep_apart
from reasoner.plan import describe_offline, describe_plan
from reasoner.problem_checks import check_sample
from reasoner.prompts import Renderer, open_renderer, render
from reasoner.records import Problem, Prompt, SamplingParams, ScoredGroup
from reasoner.references import describe_references
from reasoner.runs.checksums import identify
from reasoner.runs.folder import MINIMUM_FREE
from reasoner.safe_text import printable
from reasoner.sampling.factory import check_sampler, choose_engine
from reasoner.sampling.responses import all_end_tokens, end_tokens
from reasoner.settings import Resolved


@dataclass(frozen=True)
class Material:
    """The data and the models' folders."""

    config: Config
    manager: pluggy.PluginManager
    facts: Mapping[str, str]
    """what was chosen, and why"""
    device: Literal["cpu", "cuda"]
    engine: str
    """of the sampler; empty: nothing is sampled"""
    folder: Path
    """of the model"""
    critic_folder: Path
    held_out: Sequence[Prompt]
    train: Sequence[Prompt]
    problems: Stream[Problem] | None
    """of `train` by step; None: no term reads fresh groups"""
    offline: Mapping[Source, OfflineData]
    streams: Mapping[Source, Stream[ScoredGroup]]
    """the groups of `offline` by step"""
    turn_end: TurnEnd
    """what ends a response beside the model's own end tokens"""

    def identity(self) -> dict[str, str]:
        """Checksums of all that (see `checksums.identify`)."""
        models = {"model": self.folder} | ({"critic": self.critic_folder} if self.config.gro.needs_critic else {})
        data: dict[str, Sequence[object]] = {"data.train": self.train, "data.eval": self.held_out}
        data |= {f"data.{source}": offline.groups for source, offline in self.offline.items()}
        used = {name: records for name, records in data.items() if records}
        return identify(models, used, self.config.plugins, self.engine)

    @property
    def estimate(self) -> Estimate:
        """What training takes of memory and disk, and what is free here now."""
        policy, critic = ModelSize.of(self.folder, self.config.lora), ModelSize.of(self.critic_folder)
        return Estimate(self.config, policy, critic, this_machine(self.device), self.engine)

    @property
    def evaluation_needs(self) -> tuple[Need, ...]:
        """What an evaluation takes of memory."""
        model = ModelSize.of(self.folder)
        return needs(self.config, model, model, this_machine(self.device), self.engine, training=False)

    @property
    def reserve_bytes(self) -> int:
        """What a training run needs on the disk at most, large files only."""
        return MINIMUM_FREE + self.estimate.disk_bytes


def load_material(resolved: Resolved, *, training: bool) -> Material:
    """Read the data and find the models.

    Raises:
        UserError: they are not as they must be.
    """
    config = resolved.config
    manager = plugins.build_manager(config.plugins)
    generators = plugins.generators(manager)
    splits = _splits(config, generators, training=training)
    checks = _problem_checks(config, manager, [*splits.train, *splits.eval])
    device = resolve_device(config.model.device)
    engine = choose_engine(config.sampling) if config.online or not training else ""
    facts = {**describe_plan(resolved, splits, device, engine, training=training), **checks}
    # Before there is a view: an embedded model is converted, or one from the hub downloaded, when it is used for the
    # first time.
    print(printable(f"preparing model {facts['model']}"), flush=True)  # noqa: T201
    folder = resolve_model(config.model.path)
    if engine:
        check_sampler(config, folder, training=training)
    tokenizer = open_tokenizer(folder, config.model.trust_remote_code)

    renderer = open_renderer(tokenizer, config.prompt, config.model.chat_template_kwargs)

    def prompts(problems: Sequence[Problem]) -> list[Prompt]:
        return render(problems, renderer, config.sampling.max_prompt_tokens)

    offline: dict[Source, OfflineData] = {
        source: _offline(config, source, generators, renderer, splits.eval)
        for source in SOURCES
        if training and source != "online" and config.gro.reads(source)
    }
    facts |= describe_references(config.rewards, plugins.reward_sources(manager), [*splits.train, *splits.eval])
    facts |= {f"data.{source}": describe_offline(config, source, data) for source, data in offline.items()}
    facts |= {"hub": said_offline()} if said_offline() else {}
    held_out, train = prompts(splits.eval), prompts(splits.train)
    facts |= renderer.facts()
    if engine:
        facts["responses end"] = _said_ends(config, folder, tokenizer, renderer)
    critic = config.critic.path if training and config.gro.needs_critic else None
    return Material(
        config=config,
        manager=manager,
        facts=facts,
        device=device,
        engine=engine,
        folder=folder,
        critic_folder=resolve_model(critic) if critic else folder,
        held_out=held_out,
        train=train,
        problems=_problems(config, train) if training and config.online else None,
        offline=offline,
        streams={source: _stream(config, source, data) for source, data in offline.items()},
        turn_end=renderer.turn_end(),
    )


def _said_ends(config: Config, folder: Path, tokenizer: Any, renderer: Renderer) -> str:
    """Where responses end, in words.

    Raises:
        UserError: nothing ends them.
    """
    own = end_tokens(folder, tokenizer)
    params = renderer.turn_end().added_to(SamplingParams(0.0, 1, tuple(config.sampling.stop)))
    try:
        all_end_tokens(own, params)
    except SamplerError as error:
        raise UserError(f"model.path = {config.model.path!r}: {error}") from None
    said = renderer.said_end(own)
    return f"before {list(config.sampling.stop)} (sampling.stop), and {said}" if config.sampling.stop else said


def _problem_checks(config: Config, manager: pluggy.PluginManager, problems: Sequence[Problem]) -> dict[str, str]:
    """What became of trying a few of the problems with each source."""
    sources = plugins.reward_sources(manager)
    said = {
        reward.source: check_sample(sources[reward.source], reward.options, problems, config.run.seed)
        for reward in config.rewards
    }
    return {f"problems of {source}": words for source, words in said.items() if words}


def _splits(config: Config, generators: Mapping[str, Generator], *, training: bool) -> Splits:
    """The problems that the command uses."""
    if training and config.online:
        return load_splits(config.data, config.prompt, generators, config.run.seed)
    if training:
        return Splits((), (), ())
    if config.data.eval is None:
        raise ConfigError("data.eval is needed to evaluate and not set, for example --set data.eval.path=FILE.")
    return Splits((), tuple(load_held_out(config.data.eval, config.prompt, generators)), ())


def _offline(
    config: Config,
    source: Kind,
    generators: Mapping[str, Generator],
    renderer: Renderer,
    held_out: Sequence[Problem],
) -> OfflineData:
    """The responses of one source, apart from the evaluation problems."""
    wanted: OfflineConfig = getattr(config.data, source)
    data = load_offline(source, wanted, config.prompt, generators, renderer, config.run.seed)
    policy = overlap_policy(config.data, wanted)
    groups, notes = keep_apart(data.groups, lambda scored: scored.group.problem, held_out, f"data.{source}", policy)
    return OfflineData(groups, (*data.notes, *notes))


def _problems(config: Config, prompts: Sequence[Prompt]) -> Stream[Problem]:
    seed = config.run.seed if config.data.train and config.data.train.shuffle else None
    per_step = config.learning.problems_per_step
    problems = [prompt.problem for prompt in prompts]
    return Stream(problems, per_step, seed, section="data.train", key="learning.problems_per_step")


def _stream(config: Config, source: Source, data: OfflineData) -> Stream[ScoredGroup]:
    offline: OfflineConfig = getattr(config.data, source)
    seed = config.run.seed if offline.shuffle else None
    return Stream(data.groups, config.per_step(source), seed, section=f"data.{source}", key=f"data.{source}.per_step")
