"""What was sampled on one rank and is needed on others: a summary of everything on all of them, the tokens only where
they go through the model.

A rank that samples a group keeps its token ids and log-probabilities. The others know the group by its rewards and
their components, its lengths, and which tokens the policy wrote: what credit, normalisers and shares are computed from.
Once the shares of a pass through the model are known, every rank fetches the tokens of its own from the ranks that have
them, so that what a rank sends and gets grows with its share and not with the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from reasoner.distributed.ranks import Ranks
from reasoner.io.token_array import RemoteArray, digest_of
from reasoner.records import Group, Problem, ScoredGroup


def summary_of(scored: ScoredGroup, rank: int) -> ScoredGroup:
    """The group without what was written in it, for ranks that did not sample it: rewards and components, lengths,
    masks, versions, turns.

    Args:
        rank: this one, which keeps the group.
    """
    group = scored.group
    problem = Problem(group.problem.id, (), "", part=group.problem.part)
    prompt_ids = _remote(group.prompt_ids, rank)
    responses = tuple(
        replace(
            response,
            text="",
            token_ids=_remote(response.token_ids, rank),
            sampler_logprobs=RemoteArray[float](len(response.token_ids), rank),
            routes=RemoteArray[int](len(response.routes), rank) if response.routes else (),
            turns=tuple(replace(turn, text="", calls=()) for turn in response.turns),
        )
        for response in group.responses
    )
    return replace(scored, group=Group(problem, prompt_ids, responses))


def _remote(token_ids: Sequence[int], rank: int) -> RemoteArray[int]:
    return RemoteArray(len(token_ids), rank, digest_of(token_ids))


def fetch(wanted: Iterable[int], arrays: Sequence[Sequence[Any]], ranks: Ranks) -> dict[int, Sequence[Any]]:
    """Some of the arrays, by their index, with those that other ranks have. All ranks call it with the same list of
    arrays, of which each has some; they may want different ones."""
    values = {index: arrays[index] for index in wanted}
    if ranks.count == 1:
        return values
    lacking = {index: array.owner for index, array in values.items() if isinstance(array, RemoteArray)}
    requests = ranks.gather(lacking)
    if not any(requests):
        return values
    sent = [{n: arrays[n] for n, owner in asked.items() if owner == ranks.index} for asked in requests]
    for parts in ranks.exchange(sent):
        values |= parts
    return values


def whole_groups(groups: Sequence[Group], ranks: Ranks) -> list[Group]:
    """A few groups with all tokens, log-probabilities and experts, on every rank."""
    responses = [response for group in groups for response in group.responses]
    arrays: list[Sequence[Any]] = [group.prompt_ids for group in groups]
    for response in responses:
        arrays += response.token_ids, response.sampler_logprobs, response.routes
    values = fetch(range(len(arrays)), arrays, ranks)
    filled = iter(
        replace(response, token_ids=values[at], sampler_logprobs=values[at + 1], routes=values[at + 2])
        for at, response in zip(range(len(groups), len(arrays), 3), responses, strict=True)
    )
    return [
        replace(group, prompt_ids=values[place], responses=tuple(next(filled) for _ in group.responses))
        for place, group in enumerate(groups)
    ]
