"""Several tasks in one run."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.config.sections import PartConfig, Sections
from reasoner.errors import nearest


def check_parts(config: Sections) -> None:
    """The parts of a mixture, and the tasks that are evaluated beside what is trained on, go together.

    Raises:
        ValueError: they do not; it names the key.
    """
    names = [part.task for part in config.mixture]
    also = config.evaluation.also if config.evaluation else []
    for place, listed in (("mixture", names), ("evaluation.also", [part.task for part in also])):
        if twice := next((name for name in listed if listed.count(name) > 1), None):
            raise ValueError(f"{place} names the task {twice!r} twice; name each task once")
    own = names or [config.task]
    if known := next((part.task for part in also if part.task in own), None):
        raise ValueError(
            f"evaluation.also names {known!r}, which the run trains on and evaluates anyway: set its own keys "
            f"({'mixture.' + known + '.' if names else ''}evaluation.samples, data.eval.limit)"
        )
    for part in also:
        _check_also(part)
    _check_best(config, [*own, *(part.task for part in also)])
    _check_formats(config)
    if config.curriculum.parts != "fixed" and not config.mixture:
        raise ValueError(f"curriculum.parts = {config.curriculum.parts!r} has no effect without [[mixture]]")
    if config.mixture:
        _check_mixture(config)


def _check_best(config: Sections, names: Sequence[str]) -> None:
    best = config.evaluation.best if config.evaluation else ""
    if best not in ("", "mean", *names):
        raise ValueError(
            f"evaluation.best = {best!r} is no task of this run.{nearest(best, ['mean', *names])} It is one of: mean, "
            f"{', '.join(names)}"
        )


def _check_mixture(config: Sections) -> None:
    if config.gro.terms and not config.online:
        raise ValueError("mixture is of problems to sample responses to, and no term reads online groups")
    for part in config.mixture:
        if part.data.train is None:
            raise ValueError(
                f"mixture.{part.task}: the task only evaluates: data.train is not set. Evaluate on it beside the "
                f"training, [[evaluation.also]] task = {part.task!r}; or give it problems to train on: --set "
                f"mixture.{part.task}.data.train.path=FILE"
            )
    kinds = {isinstance(part.weight, str) for part in config.mixture}
    if len(kinds) > 1:
        weights = ", ".join(f"{part.task} = {part.weight}" for part in config.mixture)
        raise ValueError(f"mixture: give every part a number as its weight, or every one 'size'; got {weights}")
    for key in ("max_tokens", "max_prompt_tokens"):
        longest = max(getattr(part.sampling, key) for part in config.mixture)
        if getattr(config.sampling, key) != longest:
            raise ValueError(
                f"sampling.{key} = {getattr(config.sampling, key)} of a mixture must be the largest of its parts, "
                f"{longest}: change that of a part, mixture.{config.mixture[0].task}.sampling.{key}"
            )


def _check_also(part: PartConfig) -> None:
    place = f"evaluation.also.{part.task}"
    if part.evaluation is None or not part.evaluation.correct:
        raise ValueError(
            f"{place}.evaluation.correct is needed and not set: the reward source that decides whether a response is "
            "correct"
        )
    if part.data.eval is None and (part.data.holdout is None or part.data.train is None):
        raise ValueError(f"{place}: the task has nothing to evaluate on: {place}.data.eval is not set")


def _check_formats(config: Sections) -> None:
    """One model is asked in one format: it decides where a response ends."""
    also = config.evaluation.also if config.evaluation else []
    named = [(f"mixture.{part.task}.", part.prompt.format) for part in config.mixture] or [("", config.prompt.format)]
    named += [(f"evaluation.also.{part.task}.", part.prompt.format) for part in also]
    first, wanted = named[0]
    for place, section in named:
        if section != wanted:
            raise ValueError(
                f"{place}prompt.format = {section!r}, and {first}prompt.format = {wanted!r}: one model is asked in one "
                "format; give all tasks the same"
            )
