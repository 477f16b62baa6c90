"""The evaluation itself: each model is loaded once for all its tasks, and its memory given back before the next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from reasoner.benchmarks.check import check_engine
from reasoner.benchmarks.folder import EvaluationFolder
from reasoner.benchmarks.parts import BenchmarkPart
from reasoner.evaluation.metrics import Criterion, Evaluation, summarise
from reasoner.monitoring.format import interval
from reasoner.monitoring.view import View
from reasoner.records import ScoredGroup
from reasoner.sampling.base import track_progress
from reasoner.sampling.factory import open_engine
from reasoner.scoring.service import ScoringService
from reasoner.training.build import watching
from reasoner.training.evaluator import evaluation_params, in_order
from reasoner.training.guards.applicability import unjudged_reason
from reasoner.training.guards.environment_failures import limit_failures
from reasoner.training.weight_sync import SavedModel, hand_over
from reasoner.trajectories.factory import open_interactions
from reasoner.trajectories.sampler import TrajectorySampler


def evaluate(parts: Sequence[BenchmarkPart], folder: EvaluationFolder, view: View) -> None:
    """Evaluate the parts.

    Raises:
        RunError: a sampler, the scoring service or the disk failed; what was done before is in the folder.
    """
    for members in shared(parts):
        first = members[0]
        view.message(f"model {first.letter}: starting the sampler ({first.resources.decisions.engine})")
        longest, log = max(part.longest for part in members), folder.folder / f"sampler-{first.letter}.log"
        decisions, model_folder = first.resources.decisions, first.resources.folder
        engine = open_engine(first.config, decisions, model_folder, log, longest, say=view.message)
        with TrajectorySampler(engine) as sampler:
            view.message(f"model {first.letter}: {sampler.description}")
            if sampler.version < 0:
                model = first.config.model
                saved = SavedModel(first.resources.folder, model.dtype, model.trust_remote_code)
                hand_over(saved, sampler, parent=first.config.sampling.weights_folder, say=view.message)
            check_engine(first, sampler, longest, view.message)
            for part in members:
                with folder.start(part) as run, watching(part.resources, run, view, tracked=False) as events:
                    groups = _sample_and_score(part, sampler, folder, view)
                    evaluation = summarise(groups, part.samples, Criterion.of(part.config))
                    folder.finish(part, run, groups, evaluation)
                    run.clock.evaluation = run.clock.total
                    view.message(_in_short(part, evaluation))
                    if reason := unjudged_reason(part.config, groups):
                        view.message(f"WARNING: {reason}")
                    events.emit("evaluation_finished", step=0, evaluation=evaluation)


def shared(parts: Sequence[BenchmarkPart]) -> list[list[BenchmarkPart]]:
    """The parts that one engine can do, by engine."""
    groups: dict[tuple[object, ...], list[BenchmarkPart]] = {}
    for part in parts:
        groups.setdefault(part.engine, []).append(part)
    return list(groups.values())


def _sample_and_score(
    part: BenchmarkPart, sampler: TrajectorySampler, folder: EvaluationFolder, view: View
) -> tuple[ScoredGroup, ...]:
    """Every group of the part in the order of its prompts; those that are committed already are not sampled again."""
    config, groups = part.config, folder.groups(part)
    done = {scored.group.problem.id for scored in groups}
    left = [prompt for prompt in part.prompts if prompt.problem.id not in done]
    if not left:
        return in_order(groups, part.prompts, part.samples)
    told = view.message
    with open_interactions(config, part.resources.turn_formats, told, folder.log) as interactions:
        # Others than those that an interruption cut off: they are as good, and not the same ones over again.
        params = part.resources.turn_end.added_to(evaluation_params(config, len(done)))
        drawn = sampler.with_interactions(interactions).sample(left, part.samples, params)
        drawn = limit_failures(drawn, len(left) * part.samples, config.environment)
        progress = partial(view.stage, "evaluation")
        counting = track_progress(drawn, part.samples * len(part.prompts), progress, part.samples * len(done))
        with ScoringService(config.rewards, config.scoring, config.plugins, told, fail=told, log=folder.log) as scorer:
            for scored in scorer.score(counting):
                folder.commit(part, scored)
                groups.append(scored)
    return in_order(groups, part.prompts, part.samples)


def _in_short(part: BenchmarkPart, evaluation: Evaluation) -> str:
    """`A on math-500: avg@4 34.2% [30.9, 37.6]`; everything else comes at the end, for all models together."""
    figure = evaluation.accuracy
    text = f"{figure.name} {interval(figure.value, figure.low, figure.high, figure.unit)}" if figure else "no verdict"
    return f"{part.letter} on {part.config.task}: {text}"
