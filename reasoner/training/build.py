"""Opens what a command works with: built from the configuration, cheapest and likeliest to fail first; closed in
reverse, whatever happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from reasoner.config import Config, RewardConfig
from reasoner.config.decisions import Decisions
from reasoner.data.curriculum import Curriculum
from reasoner.data.mixture import Chooser, Mixture, weights_of
from reasoner.data.problems import Cursor, Stream
from reasoner.distributed.ranks import ALONE, Ranks, claim_device, open_ranks, part_of, visible_devices
from reasoner.distributed.sharding import LogprobModel, ShardedPolicy
from reasoner.errors import ConfigError, DataError, OutOfTimeError, ScoringError, state_after
from reasoner.gro.links import slope_without_credit
from reasoner.gro.spec.terms import CustomLink, Term
from reasoner.launch.launcher import error_folder, report_folder
from reasoner.learning.adapter import Adapted, WithoutAdapter
from reasoner.learning.critic import TorchCritic
from reasoner.learning.factory import open_learner
from reasoner.learning.model.backbone import Backbone
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.learning.sequence_parallel import SequenceRanks
from reasoner.loading import Resolved, to_toml
from reasoner.monitoring.alarms import AlarmMonitor
from reasoner.monitoring.choose import open_view
from reasoner.monitoring.plain import PlainView
from reasoner.monitoring.timer import Timeline
from reasoner.monitoring.tracking import Trackers
from reasoner.monitoring.view import View, Views
from reasoner.planning.decide import decide
from reasoner.planning.describe import describe_checkpoints
from reasoner.planning.estimate import RunEstimate
from reasoner.planning.feasibility import refuse_impossible
from reasoner.planning.resources import Resources, load_resources
from reasoner.plugins import manager as plugins
from reasoner.plugins.events import Events
from reasoner.processes.stacks import forget_stacks, keep_stacks
from reasoner.records import Problem
from reasoner.runs.folder import RunFolder, open_run
from reasoner.runs.rank_folder import RankFolder
from reasoner.runs.resuming.resume import Place, Resume, find_place, repeated_steps
from reasoner.runs.resuming.rules import KeyChange
from reasoner.sampling.base import Sampler
from reasoner.sampling.factory import open_engine
from reasoner.sampling.server.compatibility import ServerRequirements
from reasoner.sampling.server.policy import ServedPolicy
from reasoner.sampling.sharded import ShardedSampler
from reasoner.scoring.base import Scorer
from reasoner.scoring.service import ScoringService
from reasoner.scoring.sharded import ShardedScorer
from reasoner.training.checkpointing import CRITIC
from reasoner.training.evaluator import Evaluator
from reasoner.training.held_out import HeldOut
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import RolloutCollector
from reasoner.training.teacher import SolutionReader
from reasoner.training.trainer import Trainer
from reasoner.trajectories.factory import open_interactions
from reasoner.trajectories.sampler import TrajectorySampler


@dataclass(frozen=True)
class _Base(Resources):
    """What every command has: data and models, the run folder and the view."""

    ranks: Ranks
    run: RunFolder
    view: View
    events: Events


@contextmanager
def open_trainer(resolved: Resolved, resume: Resume | None = None) -> Iterator[Trainer]:
    """Build a training run's parts and its folder, or those of a run to resume.

    Raises:
        UserError: data, model, verifiers or the run folder are not as they must be; nothing was loaded yet.
        RunError: an engine did not start.
    """
    config = resolved.config
    config.check_trains(resolved.typed)
    with ExitStack() as stack:
        claim_device(config.model.device)  # before CUDA is asked what is there
        decisions = decide(config)
        ranks = stack.enter_context(_open_ranks(config, decisions))
        place = None
        if resume and ranks.first:
            place = stack.enter_context(find_place(resume.folder, config.run.steps, accept=resume.accept))
        checkpoint = ranks.broadcast(place.checkpoint if place else None)
        forget_scores = ranks.broadcast(place.forgets if place else False)
        changes = resume.changes if resume else ()
        base = stack.enter_context(_open_base(resolved, decisions, ranks, place, changes))
        prefetcher = stack.enter_context(Prefetcher())
        terms = _bound_terms(base)
        timeline = Timeline()
        evaluator = stack.enter_context(_open_evaluator(base, timeline)) if config.has_sampler else None
        base.view.message("loading the learner")
        learner = open_learner(_with_handover(base.config, decisions), decisions, base.folder, ranks, checkpoint)
        _match_rotation(base, learner.policy)
        base.view.message(f"learner: {learner.description}")
        reference = _build_reference(base, learner)
        teacher = _build_teacher(base, reference, stack)
        trainer = Trainer(
            config=config,
            device=decisions.device,
            run=base.run,
            view=base.view,
            events=base.events,
            ranks=ranks,
            terms=terms,
            learner=learner,
            reference=reference,
            teacher=teacher,
            critic=_build_critic(base, checkpoint / CRITIC if checkpoint else None),
            evaluator=evaluator,
            held_out=_build_held_out(base, terms, learner, reference),
            collector=_build_collector(base, evaluator, timeline),
            prefetcher=prefetcher,
            adapter_is_beside=base.decisions.holds_adapter,
            offline=base.streams,
            timeline=timeline,
            alarms=AlarmMonitor(base.run.history, list(base.run.evaluations.items())),
        )
        base.run.clock.end_set_up()
        if checkpoint:
            trainer.checkpoints.restore(checkpoint, forget_scores=forget_scores)
        try:
            yield trainer
        except BaseException as error:
            trainer.checkpoints.save_on_exit(collective=isinstance(error, OutOfTimeError))
            raise


@contextmanager
def _open_base(
    resolved: Resolved, decisions: Decisions, ranks: Ranks, place: Place | None, changes: Sequence[KeyChange]
) -> Iterator[_Base]:
    first_start = place.first_start if place else ""
    resources = load_resources(resolved, decisions, training=True, ranks=ranks, first_start=first_start)
    config, facts = resources.config, dict(resources.facts)
    estimate = resources.estimate
    refuse_impossible(estimate)
    tight = estimate.check()
    facts |= estimate.facts | {"checkpoints": describe_checkpoints(config.run, estimate.checkpoint_bytes)}
    if place:
        facts["resumed"] = str(place)
    with ExitStack() as stack:
        notes: Sequence[str] = ()
        if ranks.first:
            if place:
                identity = resources.identity()
                changes = (*changes, *place.check(identity))
                run, notes = place.reopen(to_toml(config), identity, facts, changes, resources.reserve_bytes)
                forget_stacks(run.folder)
            else:
                run = _new_run(resources, facts)
            stack.enter_context(run)
            view = stack.enter_context(open_view(sys.stdout, run.log, ranks.count))
            report_folder(run.folder)
            ranks.gather((run.folder, run.history, run.evaluations))
        else:
            nothing: tuple[Path, list[dict[str, float]], dict[int, Any]] = (Path(), [], {})
            run = stack.enter_context(RankFolder(*ranks.broadcast(nothing), ranks.index))
            view = stack.enter_context(Views(PlainView(run.log, ascii_only=False), ranks=ranks.count))
        view.started(facts | {"output": str(run.folder)}, config.run.steps)
        if run.history:
            view.resumed(run.history, list(run.evaluations.values()), config.run.steps)
        for note in (*notes, *map(str, changes), *(f"WARNING: {warning}" for warning in tight)):
            view.message(note)
        if ranks.count > 1:
            stack.enter_context(keep_stacks(run.folder))
        events = Events(None, view.message)  # plugins watch on the first rank, and would be told the same on others
        if ranks.first:
            events = stack.enter_context(watching(resources, run, view, tracked=True))
        try:
            parts = vars(resources) | {"config": _with_recomputation(config, estimate, ranks)}
            yield _Base(**parts, ranks=ranks, run=run, view=view, events=events)
        except BaseException as error:
            view.message(_resume_hint(run, error))
            raise


def _with_recomputation(config: Config, estimate: RunEstimate, ranks: Ranks) -> Config:
    """With `learning.gradient_checkpointing` decided, where that is left open: on all ranks where one has no room."""
    if config.learning.gradient_checkpointing != "auto":
        return config
    recomputes = any(ranks.gather(bool(estimate.config.learning.gradient_checkpointing)))
    learning = config.learning.model_copy(update={"gradient_checkpointing": recomputes})
    return config.model_copy(update={"learning": learning})


def _new_run(resources: Resources, facts: Mapping[str, str]) -> RunFolder:
    config, identity = resources.config, resources.identity()
    output, reserve = Path(config.run.output), resources.reserve_bytes
    return open_run(output, config.task, to_toml(config), facts, identity=identity, reserve_bytes=reserve)


@contextmanager
def watching(resources: Resources, run: RunFolder, view: View, *, tracked: bool) -> Iterator[Events]:
    """Plugins and trackers that watch, told of the start and of the end."""
    trackers = Trackers(resources.config.trackers if tracked else {}, plugins.trackers(resources.manager), view.message)
    events = Events(resources.manager, view.message, {"trackers": trackers})
    settings = resources.config.model_dump()
    events.emit("run_started", folder=run.folder, settings=settings, first_step=run.steps + 1)
    ended_by: BaseException | None = None
    try:
        yield events
    except BaseException as error:
        ended_by = error
        raise
    finally:
        events.emit("run_finished", folder=run.folder, state=state_after(ended_by))


def _resume_hint(run: RunFolder, error: BaseException) -> str:
    """What an unfinished run leaves, and how to resume it."""
    how: str = state_after(error)
    if isinstance(error, OutOfTimeError):
        how += f", because {error}"
    saved = run.checkpoints.steps()
    mended = " (after repairing a reward source, add --accept-changes)" if isinstance(error, ScoringError) else ""
    if not saved:
        return f"{how}: {run.steps} committed steps are in {run.folder}; there is no checkpoint to resume from"
    again = "" if saved[-1] == run.steps else f" ({repeated_steps(run.steps - saved[-1])})"
    return f"{how}: to resume from step {saved[-1]}{again}: reasoner run --resume {quote(str(run.folder))}{mended}"


@contextmanager
def _open_evaluator(base: _Base, timeline: Timeline) -> Iterator[Evaluator]:
    config, view = base.config, base.view
    working = partial(timeline, "environment")
    with ExitStack() as stack:
        shared = config.sampling.tensor_parallel if base.ranks.count > 1 else 1
        rewards = {name: _rank_rewards(rewards, base.ranks, shared) for name, rewards in config.scored.items()}
        scoring = config.scoring
        if base.ranks.count > 1:  # the failures of all ranks are judged together (`ShardedScorer`)
            scoring = scoring.model_copy(update={"max_failure_rate": 1.0})
        service = stack.enter_context(
            ScoringService(rewards, scoring, config.plugins, view.message, fail=view.message, log=base.run.log)
        )
        scorer: Scorer = service
        view.message(f"starting the sampler ({base.decisions.engine})")
        log = base.run.folder / "sampler.log"
        devices = _devices(base.ranks, shared)
        engine: Sampler | None = None
        sampler: Sampler | None = None
        if base.ranks.index % shared == 0:
            token_service = open_engine(
                config, base.decisions, base.folder, log, ranks=base.ranks, say=view.message, devices=devices
            )
            opened = TrajectorySampler(token_service)
            engine = stack.enter_context(opened)
            interactions = open_interactions(config, base.turn_formats, view.message, base.run.log, working)
            sampler = opened.with_interactions(stack.enter_context(interactions))
        if base.ranks.count > 1:
            # Prefetched groups are exchanged while the update exchanges gradients.
            ranks = base.ranks.twin() if config.sampling.lookahead else base.ranks
            scorer = ShardedScorer(service, ranks, config.scoring.max_failure_rate)
            engine, sampler = (_sharded(rank_sampler, rewards, ranks, shared) for rank_sampler in (engine, sampler))
        assert engine is not None
        assert sampler is not None
        merged = base.decisions.merge_reason
        how = f", {f'merged hand-over ({merged})' if merged else 'adapter hand-over'}" if config.lora else ""
        view.message(f"sampler: {sampler.description}{how}")
        yield Evaluator(
            config, base.run, view, base.held_out, scorer, service, sampler, engine, base.events, base.turn_end
        )


def _bound_terms(base: _Base) -> dict[str, Term]:
    """The terms with the functions of plugins.

    Raises:
        ConfigError: a plugin's link breaks the contract.
    """
    algorithms = plugins.algorithms(base.manager)
    terms = {name: configured.term for name, configured in base.config.gro.terms.items()}
    bound = {name: algorithms.bind(term) for name, term in terms.items()}
    for name, term in terms.items():
        if isinstance(term.link, CustomLink) and (slope := slope_without_credit(bound[name].link)):
            raise ConfigError(
                f"gro.terms.{name}.link.name = {term.link.name!r}: for credit 0 this link has the slope {slope[1]:.3g} "
                f"at u = {slope[0]:g}. Responses without credit get no forward pass, so a link must be flat there: a "
                "product with c, or a function of its sign, is."
            )
    return bound


def _devices(ranks: Ranks, shared: int) -> str:
    """The CUDA devices of the `shared` neighbours that have an engine together; empty: each has its own.

    Raises:
        ConfigError: they are on different nodes.
    """
    if shared == 1:
        return ""
    first = ranks.index - ranks.index % shared
    of_ranks = ranks.gather((ranks.node, visible_devices() or []))[first : first + shared]
    if len({node for node, _ in of_ranks}) > 1:
        raise ConfigError(
            f"sampling.tensor_parallel = {shared} does not divide the ranks of a node, and an engine is on one node"
        )
    return ",".join(device for _, own in of_ranks for device in own)


def _with_handover(config: Config, decisions: Decisions) -> Config:
    """With what the learner publishes chosen, where that is left open."""
    if config.lora is None or not config.has_sampler:
        return config
    lora = config.lora.model_copy(update={"handover": "merged" if decisions.merge_reason else "adapter"})
    return config.model_copy(update={"lora": lora})


def _rank_rewards(rewards: Sequence[RewardConfig], ranks: Ranks, shared: int) -> list[RewardConfig]:
    """The reward sources as one rank calls them: each has its part of a budget of calls.

    Args:
        shared: neighbouring ranks that have an engine together, on the first of them.
    """
    return [
        reward
        if reward.max_calls is None
        else reward.model_copy(update={"max_calls": part_of(reward.max_calls, ranks, shared)})
        for reward in rewards
    ]


def _sharded(
    sampler: Sampler | None, rewards: Mapping[str, Sequence[RewardConfig]], ranks: Ranks, shared: int
) -> ShardedSampler:
    """The sampler of one rank among those of all; see `_rank_rewards`.

    A budget of calls is divided evenly, so with one every rank samples, and then scores, as many groups as the others:
    a fast one would use up its part while that of a slow one is left.
    """
    has_budget = any(reward.max_calls is not None for of_task in rewards.values() for reward in of_task)
    return ShardedSampler(sampler, ranks, shared, takes_others=not has_budget)


@contextmanager
def _open_ranks(config: Config, decisions: Decisions) -> Iterator[Ranks]:
    """The ranks of a training run, which must agree on everything that decides what they do.

    Raises:
        UserError: they do not.
    """
    if decisions.learner == "torch":
        yield ALONE
        return
    own = error_folder()
    with (
        keep_stacks(own) if own else nullcontext(),
        open_ranks(decisions.device, config.learning.sequence_parallel) as ranks,
    ):
        ranks.agree(_flat(config.model_dump()) | {"model.device": decisions.device})
        yield ranks


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat


def _build_collector(base: _Base, evaluator: Evaluator | None, timeline: Timeline) -> RolloutCollector | None:
    config = base.config
    if evaluator is None or not base.problems:
        return None
    prompts = {prompt.problem.id: prompt for prompt in base.train}
    at_once = config.learning.problems_per_step + config.extra_groups
    if config.online and len(prompts) < at_once:
        raise DataError(
            f"sampling.over_sample = {config.sampling.over_sample:g} samples {at_once} problems at once, and there are "
            f"{len(prompts)} to train on: lower it, or learning.problems_per_step, or give more rows"
        )
    weights = weights_of(config, {name: stream.size for name, stream in base.problems.items()})
    choosers = {name: _chooser(config, stream) for name, stream in base.problems.items()}
    mixture = Mixture(choosers, weights, adaptive=config.curriculum.parts == "pass-rate")
    return RolloutCollector(config, evaluator.sampler, evaluator.scorer, mixture, prompts, base.turn_end, timeline)


def _chooser(config: Config, stream: Stream[Problem]) -> Chooser:
    if config.curriculum.kind == "none":
        return Cursor(stream)
    return Curriculum(stream, config.run.seed, config.curriculum.longest_rest)


def _build_held_out(
    base: _Base, terms: Mapping[str, Term], learner: LogprobModel, reference: LogprobModel | None
) -> HeldOut | None:
    rows = {source: data.held_out for source, data in base.offline.items() if data.held_out}
    return HeldOut(rows, terms, learner, reference, base.config.sampling.max_tokens) if rows else None


def _match_rotation(base: _Base, model: Backbone) -> None:
    """Where vLLM samples, it decides how positions are rotated."""
    if base.decisions.engine in ("vllm", "servers"):
        model.rotate_as_vllm(base.decisions.longest_context)


def _build_reference(base: _Base, learner: Adapted) -> LogprobModel | None:
    config = base.config
    if not config.needs_initial:
        return None
    if config.lora is not None:
        return WithoutAdapter(learner)
    policy = _frozen_policy(base, base.folder, config.model.dtype)
    _match_rotation(base, policy)
    return policy if base.ranks.count == 1 else ShardedPolicy(policy, base.ranks)


def _build_teacher(base: _Base, initial: LogprobModel | None, stack: ExitStack) -> LogprobModel | None:
    """The model of terms whose credit is a teacher's: another one, here or on servers, or the initial one.

    Args:
        initial: the frozen initial model, where the run has one.
        stack: closes the connections to servers.

    Raises:
        UserError: a server cannot be used.
    """
    config = base.config
    if not config.gro.needs_teacher:
        return None
    teacher = initial
    if config.teacher.servers:
        longest = max(map(len, base.teacher_prompts.values()), default=config.sampling.max_prompt_tokens)
        wanted = ServerRequirements.teacher(config, base.teacher_folder, longest + config.sampling.max_tokens + 1)
        served = stack.enter_context(ServedPolicy(config.teacher.servers, wanted, base.ranks))
        base.view.message(f"teacher: {served.description}")
        teacher = served
    elif config.teacher.path is not None:
        policy = _frozen_policy(base, base.teacher_folder, config.teacher.dtype or config.model.dtype)
        teacher = policy if base.ranks.count == 1 else ShardedPolicy(policy, base.ranks)
    assert teacher is not None
    return SolutionReader(teacher, base.teacher_prompts) if base.teacher_prompts else teacher


def _frozen_policy(base: _Base, folder: Path, dtype: Literal["float32", "bfloat16"]) -> TorchPolicy:
    """A model that gives log-probabilities and is not trained."""
    config = base.config
    options = replace(
        ModelOptions.of(
            config.learning, base.decisions.device, dtype, trust_remote_code=config.model.trust_remote_code
        ),
        gradient_checkpointing=False,
        required=False,
        autocast=base.decisions.learner == "torch",
        sequence=SequenceRanks.of(base.ranks),
    )
    with base.ranks.in_turn():
        policy = TorchPolicy(folder, options)
        policy.freeze()
        return policy


def _build_critic(base: _Base, checkpoint: Path | None) -> TorchCritic | None:
    config = base.config
    if not config.gro.needs_critic:
        return None
    with base.ranks.in_turn():
        critic = TorchCritic(
            base.critic_folder,
            device=base.decisions.device,
            dtype=config.model.dtype,
            config=config.learning,
            learning_rate=config.critic.learning_rate,
            total_steps=config.optimizer_steps,
            ranks=base.ranks,
            trust_remote_code=config.model.trust_remote_code,
            checkpoint=checkpoint,
        )
    _match_rotation(base, critic.backbone)
    return critic
