"""Groups of random tokens with ragged lengths, for tests of the learner."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from reasoner.records import Group, Problem, Response


def make_response(token_ids: Sequence[int], policy_mask: Sequence[bool] | None = None) -> Response:
    """A response of these tokens, all of them the policy's unless the mask says otherwise."""
    size = len(token_ids)
    mask = tuple(policy_mask) if policy_mask is not None else (True,) * size
    return Response("", tuple(token_ids), mask, (0.0,) * size, "stop", 0)


def make_group(name: str, prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> Group:
    """A group of these token ids."""
    return Group(Problem(name, (), ""), tuple(prompt), tuple(make_response(ids) for ids in responses))


def ragged_groups(
    prompts: Sequence[int] = (1, 24, 7), responses: int = 4, longest: int = 12, vocabulary: int = 256, seed: int = 0
) -> list[Group]:
    """One group per prompt length, each with responses of 1 to `longest` tokens."""
    rng = random.Random(seed)

    def ids(size: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(size)]

    return [
        make_group(f"ragged:{n}", ids(length), [ids(rng.randint(1, longest)) for _ in range(responses)])
        for n, length in enumerate(prompts)
    ]


Routes = Callable[[Sequence[int]], Sequence[int]]
"""Token ids that are read -> the experts that are chosen for them (`Response.routes`)."""


def with_routes(groups: Sequence[Group], routes: Routes) -> list[Group]:
    """The groups with experts that were chosen as their responses were sampled."""
    return [
        replace(
            group,
            responses=tuple(
                replace(response, routes=routes([*group.prompt_ids, *response.token_ids][:-1]))
                for response in group.responses
            ),
        )
        for group in groups
    ]


def made_up_routes(token_ids: Sequence[int]) -> list[int]:
    """Two of four experts in each of two layers, which depend on the tokens so far alone, as those of a prompt that is
    shared must."""
    first = np.cumsum([[token + 1, 2 * token + 1] for token in token_ids], 0) % 4
    second = first + 1 + np.arange(len(token_ids))[:, None] % 3
    routes: list[int] = np.stack([first, second % 4], -1).ravel().tolist()
    return routes
