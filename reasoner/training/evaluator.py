"""Evaluation of the current policy: its responses to held-out problems, scored and summed up."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.config import Config
from reasoner.distributed.seeds import derive_seed
from reasoner.errors import DataError, SamplerError
from reasoner.evaluation.metrics import Criterion, Evaluation, summarise
from reasoner.records import Prompt, SamplingParams, ScoredGroup
from reasoner.sampling.base import Progress, Sampler, counted
from reasoner.scoring.base import Scorer


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
    drawn = counted(sampler.sample(prompts, samples, params), len(prompts) * samples, progress)
    groups = in_order(list(scorer.score(drawn)), prompts, samples)
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
    """How the responses of an evaluation are drawn: with the same seed in every evaluation of a run.

    Args:
        done: problems that were sampled before an interruption; the others are drawn with another seed then.

    Raises:
        ConfigError: `evaluation` is not set.
    """
    evaluation = config.required_evaluation
    return SamplingParams(
        temperature=evaluation.temperature,
        max_tokens=evaluation.max_tokens or config.sampling.max_tokens,
        stop=tuple(config.sampling.stop),
        seed=derive_seed(config.run.seed, "evaluation", done),
    )
