"""Scored groups as rows of a rollout file."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.records import Rollout, ScoredGroup


def to_rollouts(
    step: int, groups: Sequence[ScoredGroup], credits_NG: Sequence[Sequence[float | None]] | None
) -> list[Rollout]:
    """One row per response. `credits_NG`: credit per group and response; None for an evaluation, which has none."""
    rows = []
    for n, scored in enumerate(groups):
        for g, response in enumerate(scored.group.responses):
            rows.append(
                Rollout(
                    step=step,
                    problem=scored.group.problem,
                    prompt_ids=scored.group.prompt_ids,
                    sample=g,
                    response=response,
                    components=scored.components[g],
                    reward=scored.rewards[g],
                    credit=None if credits_NG is None else credits_NG[n][g],
                )
            )
    return rows
