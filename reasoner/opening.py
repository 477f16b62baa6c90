"""Opens what a command works with: built from the configuration, cheapest and likeliest to fail first; closed in
reverse, whatever happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner import plugins
from reasoner.config import Config, OfflineConfig, RewardConfig
from reasoner.data import Splits, Stream, load_problems, load_splits, overlap_policy
from reasoner.errors import ConfigError
from reasoner.evaluation import Scorer
from reasoner.gro.algorithms import Algorithms
from reasoner.gro.terms import SOURCES, Source
from reasoner.hookspecs import Generator
from reasoner.learning.critic import TorchCritic
from reasoner.learning.factory import choose_learner, open_learner
from reasoner.learning.policy import TorchPolicy
from reasoner.learning.spread import Policy, SpreadPolicy
from reasoner.measure import seconds_since_start
from reasoner.memory import ModelSize, check_memory, describe_memory, free_memory, gpu_memory, needs
from reasoner.models import open_tokenizer, resolve_device, resolve_model
from reasoner.offline import Kind, OfflineData, OfflineTokenizer, load_offline
from reasoner.overlap import keep_apart
from reasoner.plan import describe_offline, describe_plan
from reasoner.plugins import Events
from reasoner.prompts import render
from reasoner.ranks import ALONE, Ranks, claim_device, open_ranks
from reasoner.records import Problem, Prompt, ScoredGroup
from reasoner.reporting.choose import open_view
from reasoner.reporting.plain import PlainView
from reasoner.reporting.tracking import Trackers
from reasoner.reporting.view import View, Views
from reasoner.runs.folder import MINIMUM_FREE, Run, open_run
from reasoner.runs.follower import Follower
from reasoner.sampling.factory import choose_engine, open_sampler
from reasoner.scoring.service import ScoringService
from reasoner.settings import Resolved, to_toml
from reasoner.spread import SpreadSampler, SpreadScorer
from reasoner.stages import Evaluator, Stages


@dataclass(frozen=True)
class _Base:
    """What every command has: the data, the model's folder, the run folder and the view."""

    config: Config
    ranks: Ranks
    folder: Path
    """of the model"""
    device: str
    engine: str
    run: Run
    view: View
    events: Events
    algorithms: Algorithms
    train_prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    problems: Stream[Problem] | None
    offline: Mapping[Source, Stream[ScoredGroup]]
    critic_folder: Path


@contextmanager
def open_stages(resolved: Resolved) -> Iterator[Stages]:
    """Build a training run's parts and its folder.

    Raises:
        UserError: data, model, verifiers or the output folder are not as they must be; nothing was loaded yet.
        RunError: an engine did not start.
    """
    config = resolved.config
    config.check_trains()
    with ExitStack() as stack:
        ranks = stack.enter_context(_ranks(config))
        base = stack.enter_context(_open_base(resolved, config.task, ranks, training=True))
        evaluator = stack.enter_context(_open_evaluator(base)) if config.online else None
        base.view.message("loading the learner")
        learner = open_learner(config, base.folder, base.device, ranks)
        base.view.message(f"learner: {learner.description}")
        yield Stages(
            config=config,
            device=base.device,
            run=base.run,
            view=base.view,
            events=base.events,
            ranks=ranks,
            terms={name: base.algorithms.bind(term.term) for name, term in config.gro.terms.items()},
            learner=learner,
            reference=_reference(base),
            critic=_critic(base),
            evaluator=evaluator,
            problems=base.problems,
            prompts={prompt.problem.id: prompt for prompt in base.train_prompts},
            offline=base.offline,
            set_up_s=seconds_since_start(),
        )


@contextmanager
def open_evaluator(resolved: Resolved) -> Iterator[Evaluator]:
    """Build what evaluates a model, without a learner. Raises as `open_stages`."""
    with (
        _open_base(resolved, f"eval-{resolved.config.task}", ALONE, training=False) as base,
        _open_evaluator(base) as evaluator,
    ):
        yield evaluator


@contextmanager
def _open_base(resolved: Resolved, name: str, ranks: Ranks, *, training: bool) -> Iterator[_Base]:
    config = resolved.config
    manager = plugins.build_manager(config.plugins)
    generators = plugins.generators(manager)
    splits = _splits(config, generators, training=training)
    device = resolve_device(config.model.device)
    engine = choose_engine(config.sampling.engine) if config.online or not training else ""
    facts = dict(describe_plan(resolved, splits, device, engine, training=training))
    # Before there is a view: an embedded model is converted, or one from the hub downloaded, when it is used for the
    # first time.
    print(f"preparing model {facts['model']}", flush=True)  # noqa: T201
    folder = resolve_model(config.model.path)
    tokenizer = open_tokenizer(folder, config.model.trust_remote_code)

    def prompts(problems: Sequence[Problem]) -> list[Prompt]:
        return render(problems, tokenizer, config.model.chat_template_kwargs, config.sampling.max_prompt_tokens)

    offline: dict[Source, OfflineData] = {
        source: _offline(config, source, generators, tokenizer, splits.eval)
        for source in SOURCES
        if training and source != "online" and config.gro.reads(source)
    }
    facts |= {f"data.{source}": describe_offline(config, source, data) for source, data in offline.items()}
    held_out, train = prompts(splits.eval), prompts(splits.train)
    streams = {source: _stream(config, source, data) for source, data in offline.items()}
    problems = _problems(config, train) if training and config.online else None
    critic = (
        resolve_model(config.critic.path) if training and config.gro.needs_critic and config.critic.path else folder
    )
    sizes, gpu = (ModelSize.of(folder), ModelSize.of(critic)), gpu_memory(device)
    wanted = tuple(needs(config, *sizes, device, engine, gpu, training=training))
    free = free_memory(device)
    facts["memory"], tight = describe_memory(wanted, free), check_memory(wanted, free)
    reserve = MINIMUM_FREE + (2 * _size(folder) if training else 0)
    with ExitStack() as stack:
        if ranks.first:
            run = stack.enter_context(open_run(Path(config.run.output), name, to_toml(config), facts, reserve))
            view = stack.enter_context(open_view(sys.stdout, run.log))
            ranks.gather(run.folder)
        else:
            run = stack.enter_context(Follower(ranks.of_first(Path()), ranks.index))
            view = stack.enter_context(Views(PlainView(run.log, ascii_only=False)))
        view.started(facts | {"output": str(run.folder)}, config.run.steps if training else 0)
        for warning in tight:
            view.message(f"WARNING: {warning}")
        algorithms = plugins.algorithms(manager)
        trackers = Trackers(
            config.trackers if training and ranks.first else {}, plugins.trackers(manager), view.message
        )
        events = Events(manager, view.message, {"trackers": trackers})
        events.emit("run_started", folder=run.folder, settings=config.model_dump(), first_step=1)
        state = "failed"
        try:
            yield _Base(
                config,
                ranks,
                folder,
                device,
                engine,
                run,
                view,
                events,
                algorithms,
                train,
                held_out,
                problems,
                streams,
                critic,
            )
            state = "finished"
        except (KeyboardInterrupt, SystemExit):
            lost = "; the weights so far are not saved" if training else ""
            view.message(f"interrupted: what was committed is in {run.folder}{lost}")
            state = "interrupted"
            raise
        finally:
            events.emit("run_finished", folder=run.folder, state=state)


@contextmanager
def _open_evaluator(base: _Base) -> Iterator[Evaluator]:
    config, view = base.config, base.view
    with ExitStack() as stack:
        rewards = _of_one_rank(config.rewards, base.ranks)
        scorer: Scorer = stack.enter_context(ScoringService(rewards, config.scoring, config.plugins))
        view.message(f"starting the sampler ({base.engine})")
        sampler = stack.enter_context(open_sampler(config, base.folder, base.run.folder / "sampler.log"))
        if base.ranks.count > 1:
            scorer, sampler = SpreadScorer(scorer, base.ranks), SpreadSampler(sampler, base.ranks)
        view.message(f"sampler: {sampler.description}")
        yield Evaluator(config, base.run, view, base.held_out, scorer, sampler, base.events)


def _of_one_rank(rewards: Sequence[RewardConfig], ranks: Ranks) -> list[RewardConfig]:
    """The reward sources as one rank calls them: each has its part of a budget of calls."""
    return [
        reward if reward.max_calls is None else reward.model_copy(update={"max_calls": reward.max_calls // ranks.count})
        for reward in rewards
    ]


def _splits(config: Config, generators: Mapping[str, Generator], *, training: bool) -> Splits:
    """The problems that the command uses."""
    if training and config.online:
        return load_splits(config.data, config.prompt, generators, config.run.seed)
    if training:
        return Splits((), (), ())
    if config.data.eval is None:
        raise ConfigError("data.eval is needed to evaluate and not set, for example --set data.eval.path=FILE.")
    return Splits(
        (), tuple(load_problems(config.data.eval, config.prompt, generators, config.run.seed, "data.eval")), ()
    )


def _offline(
    config: Config,
    source: Kind,
    generators: Mapping[str, Generator],
    tokenizer: OfflineTokenizer,
    held_out: Sequence[Problem],
) -> OfflineData:
    """The responses of one source, apart from the evaluation problems."""
    wanted: OfflineConfig = getattr(config.data, source)
    kwargs, seed = config.model.chat_template_kwargs, config.run.seed
    data = load_offline(source, wanted, config.prompt, generators, tokenizer, kwargs, seed)
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


@contextmanager
def _ranks(config: Config) -> Iterator[Ranks]:
    """The ranks of a training run, which must agree on everything that decides what they do.

    Raises:
        UserError: they do not.
    """
    if choose_learner(config) == "torch":
        yield ALONE
        return
    claim_device()
    with open_ranks(resolve_device(config.model.device)) as ranks:
        ranks.agree(_flat(config.model_dump()) | {"model.device": resolve_device(config.model.device)})
        yield ranks


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return found


def _reference(base: _Base) -> Policy | None:
    config = base.config
    if not config.gro.needs_reference:
        return None
    policy = TorchPolicy(
        base.folder,
        device=base.device,
        dtype=config.model.dtype,
        token_budget=config.learning.token_budget,
        logit_chunk=config.learning.logit_chunk,
        share_prompts=config.learning.share_prompts,
        trust_remote_code=config.model.trust_remote_code,
        autocast=choose_learner(config) == "torch",
    )
    return policy if base.ranks.count == 1 else SpreadPolicy(policy, base.ranks)


def _critic(base: _Base) -> TorchCritic | None:
    config = base.config
    if not config.gro.needs_critic:
        return None
    return TorchCritic(
        base.critic_folder,
        device=base.device,
        dtype=config.model.dtype,
        config=config.learning,
        learning_rate=config.critic.learning_rate,
        total_steps=config.optimizer_steps,
        trust_remote_code=config.model.trust_remote_code,
    )


def _size(folder: Path) -> int:
    """Bytes of the model's files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
