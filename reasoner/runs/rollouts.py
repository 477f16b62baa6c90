"""Scored groups as rows of a rollout file."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.records import Rollout, ScoredGroup


def to_rollouts(
    step: int,
    groups: Sequence[ScoredGroup],
    credits_R: Sequence[float] | None = None,
    weights_RT: Sequence[tuple[float, ...]] | None = None,
) -> list[Rollout]:
    """One row per response. `credits_R`, `weights_RT`: of each response in group order; an evaluation has none.

    Raises:
        ValueError: not exactly one credit, or one row of weights, per response.
    """
    responses = sum(len(scored.group.responses) for scored in groups)
    for name, values in (("a credit", credits_R), ("weights", weights_RT)):
        if values is not None and len(values) != responses:
            raise ValueError(f"each of {responses} responses needs {name}, got {len(values)}")
    credit, weights = iter(credits_R or ()), iter(weights_RT or ())
    return [
        Rollout(
            step=step,
            problem=scored.group.problem,
            prompt_ids=scored.group.prompt_ids,
            sample=sample,
            response=response,
            components=scored.components[sample],
            reward=scored.rewards[sample],
            credit=next(credit, None),
            weights=next(weights, None),
        )
        for scored in groups
        for sample, response in enumerate(scored.group.responses)
    ]
