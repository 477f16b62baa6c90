"""The training loop: evaluate, checkpoint, sample and score, check the sampler, annotate, update, commit.

The parts of a run and the stages that need several of them are in `reasoner.training.trainer`, which
`reasoner.training.build` builds from the configuration; what passes between the stages is in `reasoner.records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from reasoner.gro.spec.terms import Source
from reasoner.monitoring.timer import Timer
from reasoner.records import Batch, Mismatched
from reasoner.training.trainer import Trainer
from reasoner.training.update import ActiveTerm, UpdateReport, mismatch, update
from reasoner.training.weight_sync import check_gap, gap_limit, verify_gap


def train(trainer: Trainer, *, gate: bool = False) -> Path:
    """Train as configured, or resume a run that was interrupted; returns the folder of the trained model.

    Args:
        gate: sample a few training problems first and say how often the policy is right
            (`Trainer.try_training_problems`).

    Raises:
        RunError: the sampler, a verifier, the weight sync or the disk failed; the steps before are in the run folder.
        OutOfTimeError: `run.max_hours` is nearly over; the run can be resumed.
    """
    steps = trainer.config.run.steps
    if trainer.run.steps < steps:
        trainer.prove_sampler()
        if gate:
            trainer.try_training_problems()
    for step in range(trainer.run.steps + 1, steps + 1):
        trainer.check_time()
        trainer.evaluate(step - 1)
        timer = Timer(trainer.timeline)
        with timer("checkpoint"):
            trainer.checkpoints.save_if_due()
        terms = trainer.active_terms(step)
        batches = trainer.collect(step, terms, timer)
        with trainer.sampler_asleep(timer):
            with timer("check"):
                check_sampler(trainer)
            with timer("update"):
                report = learn(trainer, terms, annotate(trainer, terms, batches))
        trainer.commit(step, report, timer)
    trainer.checkpoints.save_if_due()
    model = trainer.save_model()
    trainer.check_time()
    trainer.evaluate(steps)
    trainer.finish(model)
    return model


def check_sampler(trainer: Trainer) -> None:
    """Compare the sampler's log-probabilities of some responses with the learner's: at the first step that samples, at
    the second (after a weight sync), then at every k-th. The sampler itself may be asleep.

    Raises:
        HandoverError: they differ by more than rounding: the sampler holds other weights than the learner.
    """
    if trainer.rollouts and trainer.sampler and trainer.sampler.check_due:
        groups = trainer.on_policy_groups()
        if groups:
            gap = check_gap(trainer.learner, groups, trainer.config.sampling.temperature)
            config = trainer.config
            verify_gap(gap, gap_limit(config.model.dtype, config.handover.max_gap, quantized=config.quantized))


def annotate(trainer: Trainer, terms: Sequence[ActiveTerm], batches: Mapping[Source, Batch]) -> dict[Source, Batch]:
    """Add what the objective needs beside the current policy, once per batch and only what a term asks for."""
    off_policy = trainer.config.learning.updates_per_step * trainer.config.learning.epochs > 1
    """later optimiser steps of the training step learn from responses of older weights"""
    annotated: dict[Source, Batch] = {}
    for source, batch in batches.items():
        groups = [scored.group for scored in batch.groups]
        readers = [active.term for active in terms if active.term.source == source]
        if source == "online" and (off_policy or any(term.needs_old for term in readers)):
            batch = replace(batch, old_logprobs=tuple(trainer.learner.logprobs(groups, batch.temperature)))
        if trainer.reference and any(term.needs_reference for term in readers):
            reference = tuple(trainer.reference.logprobs(groups, batch.temperature))
            batch = replace(batch, reference_logprobs=reference)
            if source == "labelled" and any(term.anchor.kind == "kl" for term in readers):
                mismatched = mismatch(groups)
                reference = tuple(trainer.reference.logprobs(mismatched, batch.temperature))
                batch = replace(batch, mismatched=Mismatched(tuple(mismatched), reference))
        if trainer.teacher and any(term.needs_teacher for term in readers):
            batch = replace(batch, teacher_logprobs=tuple(trainer.teacher.logprobs(groups, batch.temperature)))
        if trainer.critic and any(term.needs_critic for term in readers):
            batch = replace(batch, values=tuple(trainer.critic.values(groups)))
        annotated[source] = batch
    return annotated


def learn(trainer: Trainer, terms: Sequence[ActiveTerm], batches: Mapping[Source, Batch]) -> UpdateReport:
    """Give credit to the responses and update the policy, and the critic where there is one."""
    config = trainer.config
    return update(
        batches,
        [active for active in terms if active.term.source in batches],
        trainer.learner,
        max_tokens=config.sampling.max_tokens,
        steps=config.learning.updates_per_step,
        epochs=config.learning.epochs,
        critic=trainer.critic,
        value_clip=config.critic.value_clip,
        ranks=trainer.ranks,
        progress=partial(trainer.view.stage, "update"),
    )
