"""Opens what trains: built from the configuration, cheapest and likeliest to fail first; closed in reverse, whatever
happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from reasoner.config import Config
from reasoner.config.decisions import Decisions
from reasoner.data.curriculum import Curriculum
from reasoner.data.mixture import Chooser, Mixture, weights_of
from reasoner.data.problems import Cursor, Stream
from reasoner.distributed.ranks import claim_device
from reasoner.distributed.sharding import LogprobModel
from reasoner.errors import ConfigError, DataError, OutOfTimeError
from reasoner.gro.links import slope_without_credit
from reasoner.gro.spec.terms import CustomLink, Term
from reasoner.learning.factory import open_learner
from reasoner.loading import Resolved
from reasoner.monitoring.alarms import AlarmMonitor
from reasoner.monitoring.timer import Timeline
from reasoner.planning.decide import decide
from reasoner.plugins import manager as plugins
from reasoner.records import Problem
from reasoner.runs.resuming.resume import Resume, find_place
from reasoner.training.build.evaluator import open_evaluator
from reasoner.training.build.models import build_critic, build_reference, build_teacher, match_rotation
from reasoner.training.build.run_base import RunBase, open_base, open_rank_group
from reasoner.training.checkpointing import CRITIC
from reasoner.training.evaluator import Evaluator
from reasoner.training.held_out import HeldOut
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import RolloutCollector
from reasoner.training.trainer import Trainer


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
        ranks = stack.enter_context(open_rank_group(config, decisions))
        place = None
        if resume and ranks.first:
            place = stack.enter_context(find_place(resume.folder, config.run.steps, accept=resume.accept))
        checkpoint = ranks.broadcast(place.checkpoint if place else None)
        forget_scores = ranks.broadcast(place.forgets if place else False)
        changes = resume.changes if resume else ()
        base = stack.enter_context(open_base(resolved, decisions, ranks, place, changes))
        prefetcher = stack.enter_context(Prefetcher())
        terms = _bound_terms(base)
        timeline = Timeline()
        evaluator = stack.enter_context(open_evaluator(base, timeline)) if config.has_sampler else None
        base.view.message("loading the learner")
        learner = open_learner(_with_handover(base.config, decisions), decisions, base.folder, ranks, checkpoint)
        match_rotation(base, learner.policy)
        base.view.message(f"learner: {learner.description}")
        reference = build_reference(base, learner)
        teacher = build_teacher(base, reference, stack)
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
            critic=build_critic(base, checkpoint / CRITIC if checkpoint else None),
            evaluator=evaluator,
            held_out=_build_held_out(base, terms, learner, reference),
            collector=_build_collector(base, evaluator, timeline),
            prefetcher=prefetcher,
            adapter_goes_alone=bool(base.decisions.adapter_rank),
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


def _bound_terms(base: RunBase) -> dict[str, Term]:
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


def _with_handover(config: Config, decisions: Decisions) -> Config:
    """With what the learner publishes chosen, where that is left open."""
    if config.lora is None or not config.has_sampler:
        return config
    lora = config.lora.model_copy(update={"handover": "merged" if decisions.merge_reason else "adapter"})
    return config.model_copy(update={"lora": lora})


def _build_collector(base: RunBase, evaluator: Evaluator | None, timeline: Timeline) -> RolloutCollector | None:
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
    base: RunBase, terms: Mapping[str, Term], learner: LogprobModel, reference: LogprobModel | None
) -> HeldOut | None:
    rows = {source: data.held_out for source, data in base.offline.items() if data.held_out}
    return HeldOut(rows, terms, learner, reference, base.config.sampling.max_tokens) if rows else None
