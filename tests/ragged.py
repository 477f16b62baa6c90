"""Groups of random tokens with ragged lengths, for tests of the learner."""

from __future__ import annotations

import random
from collections.abc import Sequence

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
