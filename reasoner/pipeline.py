"""The loop: sample, score, annotate, credit, update, hand over, commit.

What it works with is built in `reasoner.stages`; every arrow is a type of `reasoner.records`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from reasoner.handover import check_gap, gap_limit, hand_over, verify_gap
from reasoner.measure import Timer
from reasoner.records import Batch, ScoredGroup
from reasoner.stages import Stages
from reasoner.update import UpdateReport, update


def train(stages: Stages) -> Path:
    """Train as configured; returns the folder of the trained model.

    Raises:
        RunError: the sampler, a verifier, the hand-over or the disk failed; the steps before are in the run folder.
    """
    config, learner, sampler = stages.config, stages.learner, stages.sampler
    before = stages.evaluator.evaluate(0, "before training")
    for step in range(1, config.run.steps + 1):
        timer = Timer()
        groups = stages.sample_and_score(step, timer)
        with timer("check"):
            check_sampler(stages, groups, step)
        with timer("update"):
            sampler.sleep()
            report = learn(stages, annotate(stages, groups))
            sampler.wake()
        with timer("handover"):
            if learner.version != sampler.version:
                hand_over(learner, sampler)
        stages.commit(step, groups, report, timer)
        if config.evaluation.every and step % config.evaluation.every == 0 and step < config.run.steps:
            stages.evaluator.evaluate(step, f"after step {step}")
    model = stages.save_model()
    after = stages.evaluator.evaluate(config.run.steps, "after training")
    stages.finish(before, after, model)
    return model


def check_sampler(stages: Stages, groups: tuple[ScoredGroup, ...], step: int) -> None:
    """Compare the sampler's log-probabilities with the learner's: at the first step, after the first hand-over, then
    every k-th.

    Raises:
        HandoverError: they differ by more than rounding: the sampler holds other weights than the learner.
    """
    if step in (1, 2) or step % stages.config.handover.check_every == 0:
        few = [scored.group for scored in groups[:2]]
        gap = check_gap(stages.learner, few, stages.config.sampling.temperature)
        verify_gap(gap, gap_limit(stages.config.model.dtype, stages.config.handover.max_gap))


def annotate(stages: Stages, groups: tuple[ScoredGroup, ...]) -> Batch:
    """Add what the objective needs beside the current policy, once per batch and only what it asks for."""
    config = stages.config
    bare = [scored.group for scored in groups]
    old = reference = None
    if config.learning.updates_per_step > 1:
        old = stages.learner.logprobs(bare, config.sampling.temperature)
    if stages.reference is not None:
        reference = stages.reference.logprobs(bare, config.sampling.temperature)
    return Batch(groups, _frozen(old), _frozen(reference))


def learn(stages: Stages, batch: Batch) -> UpdateReport:
    """Credit and update."""
    config = stages.config
    return update(
        batch,
        stages.learner,
        config.gro.term,
        temperature=config.sampling.temperature,
        max_tokens=config.sampling.max_tokens,
        steps=config.learning.updates_per_step,
        progress=partial(stages.view.stage, "update"),
    )


def _frozen(logprobs_RT: list[list[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if logprobs_RT is None else tuple(map(tuple, logprobs_RT))
