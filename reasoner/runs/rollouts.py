"""Scored groups as rows of a rollout file."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.records import Rollout, ScoredGroup


def to_rollouts(step: int, groups: Sequence[ScoredGroup], credits_R: Sequence[float] | None) -> list[Rollout]:
    """One row per response. `credits_R`: credit per response in group order; None for an evaluation, which has none.

    Raises:
        ValueError: not exactly one credit per response.
    """
    responses = sum(len(scored.group.responses) for scored in groups)
    if credits_R is not None and len(credits_R) != responses:
        raise ValueError(f"each of {responses} responses needs a credit, got {len(credits_R)}")
    credit = iter(credits_R or ())
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
        )
        for scored in groups
        for sample, response in enumerate(scored.group.responses)
    ]
