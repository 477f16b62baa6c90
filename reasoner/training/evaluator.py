"""Evaluation of the current policy: its responses to held-out problems, scored and summed up."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from reasoner.config import Config
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.distributed.seeds import derive_seed
from reasoner.errors import DataError, SamplerError, ScoringError
from reasoner.evaluation.metrics import Criterion, Estimate, Evaluation, combine_evaluations, summarise
from reasoner.monitoring.view import View
from reasoner.plugins.events import Events
from reasoner.records import Prompt, SamplingParams, ScoredGroup
from reasoner.runs.folder import RunFolder
from reasoner.runs.rollouts import to_rollouts
from reasoner.sampling.base import Progress, Sampler, track_progress
from reasoner.scoring.base import Scorer
from reasoner.scoring.service import ScoringService
from reasoner.training.guards.applicability import unjudged_reason
from reasoner.training.guards.environment_failures import check_failures


@dataclass
class Evaluator:
    """What an evaluation needs; training needs it too."""

    config: Config
    run: RunFolder
    view: View
    held_out: Sequence[Prompt]
    scorer: Scorer
    service: ScoringService
    """the part of the scorer that is this rank's own"""
    sampler: Sampler
    engine: Sampler
    """samples one turn over the same engine, whatever the environment: what its weights are checked with"""
    events: Events
    """tells the plugins that watch the run"""
    turn_end: TurnEnd
    """what ends a response beside the model's own end tokens"""

    def evaluate(
        self,
        step: int,
        when: str,
        tasks: Collection[str],
        rows: int = 0,
        measured: Sequence[Estimate] = (),
    ) -> Evaluation:
        """Sample and score the held-out problems with the sampler's weights; the result is in the run folder.

        Args:
            tasks: those that are due (`Config.evaluated`).
            rows: held-out rows of offline data.
            measured: their figures, which go with those of the responses.

        Raises:
            RunError: the sampler, the scoring service or the disk failed; the environment failed on too many responses
                to the problems of a task; or the deciding source of a task has no value
                for any response before training.
        """
        started = time.perf_counter()
        evaluations: dict[str, Evaluation] = {}
        groups: list[ScoredGroup] = []
        for name, task in self.config.evaluated.items():
            if name in tasks:
                evaluations[name], of_task = self._evaluate_task(name, task)
                groups += of_task
                if step == 0 and (reason := unjudged_reason(task, of_task)):
                    raise ScoringError(reason)  # not committed: the resumed run makes this evaluation again
        evaluation = joined(self.config, evaluations)
        evaluation = replace(evaluation, rows=rows, estimates=(*evaluation.estimates, *measured))
        self.run.commit_evaluation(step, evaluation, to_rollouts(step, groups))
        self.view.evaluated(when, evaluation)
        self.events.emit("evaluation_finished", step=step, evaluation=evaluation)
        self.run.clock.evaluation += time.perf_counter() - started
        return evaluation

    def _evaluate_task(self, name: str, task: Config) -> tuple[Evaluation, tuple[ScoredGroup, ...]]:
        prompts = self.held_out
        if len(self.config.evaluated) > 1:
            prompts = [prompt for prompt in self.held_out if prompt.problem.part == name]
        params = self.turn_end.added_to(evaluation_params(task))
        progress = partial(self.view.stage, "evaluation")
        samples = task.required_evaluation.samples
        evaluation = evaluate(self.sampler, self.scorer, prompts, params, samples, Criterion.of(task), progress)
        check_failures((scored.group for scored in evaluation[1]), task.environment)
        return evaluation


def joined(config: Config, evaluations: Mapping[str, Evaluation]) -> Evaluation:
    """The evaluations of the tasks that were due, as one.

    That of a mixture has figures of its own only where all parts were due: over fewer they are other figures, by which
    checkpoints cannot be ranked.
    """
    own = {name: evaluation for name, evaluation in evaluations.items() if name not in config.also}
    best = config.evaluation.best if config.evaluation else ""
    best = "" if best == config.task else best
    if best == "mean":  # a mean over fewer tasks is another figure: such a step is ranked by what is missing
        best = next((name for name in config.evaluated if name not in evaluations), best)
    if not own or len(own) < len(config.mixture):
        return Evaluation(0, 0, 0, (), tasks=evaluations, best=best)
    if config.mixture:
        return replace(combine_evaluations(own), tasks=evaluations, best=best)
    (evaluation,) = own.values()
    return replace(
        evaluation, tasks={name: evaluation for name, evaluation in evaluations.items() if name not in own}, best=best
    )


def evaluate(
    sampler: Sampler,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    samples: int,
    criterion: Criterion,
    progress: Progress,
) -> tuple[Evaluation, tuple[ScoredGroup, ...]]:
    """Sample and score every prompt, scoring while others are sampled; groups come back in the order of the prompts.

    Raises:
        DataError: no prompts, or two problems with the same id.
        SamplerError: not exactly one group per prompt, or not `samples` responses in each.
    """
    _places(prompts)
    # nobody learns from them, and the experts of their tokens would be kept until the last response is there
    without_routes = (group.without_routes() for group in sampler.sample(prompts, samples, params))
    sampled = track_progress(without_routes, len(prompts) * samples, progress)
    groups = in_order(list(scorer.score(sampled)), prompts, samples)
    return summarise(groups, samples, criterion), groups


def in_order(groups: Sequence[ScoredGroup], prompts: Sequence[Prompt], samples: int) -> tuple[ScoredGroup, ...]:
    """The groups in the order of the prompts.

    Raises:
        DataError: no prompts, or two problems with the same id.
        SamplerError: not exactly one group per prompt, or not `samples` responses in each.
    """
    order = _places(prompts)
    ids = [scored.group.problem.id for scored in groups]
    if sorted(ids) != sorted(order) or any(len(scored.group.responses) != samples for scored in groups):
        raise SamplerError(
            f"evaluation asked for {samples} responses to each of {len(order)} problems and got "
            f"{sum(len(scored.group.responses) for scored in groups)} responses to {len(set(ids))} problems"
        )
    return tuple(sorted(groups, key=lambda scored: order[scored.group.problem.id]))


def _places(prompts: Sequence[Prompt]) -> dict[str, int]:
    """Problem id -> index of its prompt."""
    order = {prompt.problem.id: index for index, prompt in enumerate(prompts)}
    if not prompts or len(order) != len(prompts):
        raise DataError(
            f"evaluation needs problems with different ids, got {len(prompts)} problems and {len(order)} ids"
        )
    return order


def evaluation_params(config: Config, done: int = 0) -> SamplingParams:
    """How the responses of an evaluation are sampled: with the same seed in every evaluation of a run.

    Args:
        done: problems that were sampled before an interruption; the others are then sampled with another seed.

    Raises:
        ConfigError: `evaluation` is not set.
    """
    evaluation = config.required_evaluation
    return SamplingParams(
        temperature=evaluation.temperature,
        max_tokens=evaluation.max_tokens or config.sampling.max_tokens,
        stop=tuple(config.sampling.stop),
        stop_repetition=config.sampling.stop_repetition,
        seed=derive_seed(config.run.seed, "evaluation", done),
    )
