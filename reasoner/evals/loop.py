"""The evaluation itself: each model is loaded once for all its tasks, and its memory given back before the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from reasoner import plugins
from reasoner.evals.folder import EvaluationFolder
from reasoner.evals.parts import Part
from reasoner.evaluation import Evaluation, counted, in_order, summarise
from reasoner.plugins import Events
from reasoner.reporting.format import interval
from reasoner.reporting.view import View
from reasoner.sampling.base import Sampler
from reasoner.sampling.factory import open_sampler
from reasoner.scoring.service import ScoringService


def evaluate(parts: Sequence[Part], folder: EvaluationFolder, view: View) -> None:
    """Evaluate every part that is not done.

    Raises:
        RunError: a sampler, the scoring service or the disk failed; what was done before is in the folder.
    """
    for together in shared(parts):
        first = together[0]
        view.message(f"model {first.letter}: starting the sampler ({first.engine})")
        longest = max(part.longest for part in together)
        with open_sampler(first.config, first.model, folder.folder / f"sampler-{first.letter}.log", longest) as sampler:
            view.message(f"model {first.letter}: {sampler.description}")
            for part in together:
                with _told(part, folder.folder / part.name, view) as events:
                    evaluation = _evaluate(part, sampler, folder, view)
                    view.message(_in_short(part, evaluation))
                    events.emit("evaluation_finished", step=0, evaluation=evaluation)


def _in_short(part: Part, evaluation: Evaluation) -> str:
    """`A on math-500: avg@4 34.2% [30.9, 37.6]`; everything else comes at the end, for all models together."""
    accuracy = evaluation.accuracy
    found = (
        "no verdict"
        if accuracy is None
        else f"{accuracy.name} {interval(accuracy.value, accuracy.low, accuracy.high, accuracy.unit)}"
    )
    return f"{part.letter} on {part.config.task}: {found}"


def shared(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts that one engine can do, by engine."""
    groups: dict[tuple[object, ...], list[Part]] = {}
    for part in parts:
        groups.setdefault(part.loaded, []).append(part)
    return list(groups.values())


@contextmanager
def _told(part: Part, folder: Path, view: View) -> Iterator[Events]:
    """Plugins that watch take a part for a run."""
    events = Events(plugins.build_manager(part.config.plugins), view.message)
    events.emit("run_started", folder=folder, settings=part.config.model_dump())
    state = "failed"
    try:
        yield events
        state = "finished"
    except (KeyboardInterrupt, SystemExit):
        state = "interrupted"
        raise
    finally:
        events.emit("run_finished", folder=folder, state=state)


def _evaluate(part: Part, sampler: Sampler, folder: EvaluationFolder, view: View) -> Evaluation:
    config = part.config
    groups = folder.groups(part)
    done = {scored.group.problem.id for scored in groups}
    left = [prompt for prompt in part.prompts if prompt.problem.id not in done]
    if left:
        # Others than those that an interruption cut off: they are as good, and not the same ones over again.
        params = replace(part.params, seed=part.params.seed + len(done))
        total, before = part.samples * len(part.prompts), part.samples * len(done)
        with ScoringService(config.rewards, config.scoring, config.plugins) as scorer:
            drawn = sampler.sample(left, part.samples, params)
            for scored in scorer.score(counted(drawn, total, partial(view.stage, "evaluation"), before)):
                folder.commit(part, scored)
                groups.append(scored)
    ordered = in_order(groups, part.prompts, part.samples)
    evaluation = summarise(ordered, part.samples, config.required_evaluation.correct)
    folder.finish(part, ordered, evaluation)
    return evaluation
