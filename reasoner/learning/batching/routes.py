"""The experts that the sampler chose, laid out as the tokens of a micro-batch are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reasoner.errors import RunError
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.records import UNKNOWN_EXPERT

UNKNOWN = -1
"""instead of an expert, where the sampler said none"""


def flat_routes(batch: MicroBatch, experts_W: NDArray[np.uint16]) -> NDArray[np.int16] | None:
    """(L, W) the experts of every token of the flat input; None: no response has any.

    The responses to a prompt have the same for it, so that it does not matter which of them share it.

    >>> sequence = PackedSequence((1, 2), ((7, 8, 9), (5, 6)), (0, 1), ((3, 0, 1, 2), (3, 0, 2)))
    >>> flat_routes(MicroBatch((sequence,)), np.array([4], np.uint16)).ravel()  # 1, 2, 7, 8, 5; 9 and 6 are not read
    array([3, 0, 1, 2, 2], dtype=int16)

    Args:
        experts_W: (W,) for each number of a token (layers x choices), how many experts it can name.

    Raises:
        RunError: the sampler has other layers or experts.
    """
    if not any(route for sequence in batch.sequences for route in sequence.routes):
        return None
    return np.concatenate([_sequence(sequence, experts_W) for sequence in batch.sequences])


def padded_routes(batch: MicroBatch, experts_W: NDArray[np.uint16]) -> NDArray[np.int16] | None:
    """(B * L, W): as `flat_routes`, of single responses that are padded to the longest."""
    if not any(route for sequence in batch.sequences for route in sequence.routes):
        return None
    longest = max(sequence.tokens for sequence in batch.sequences)
    routes = np.full((len(batch.sequences), longest, len(experts_W)), UNKNOWN, np.int16)
    for place, sequence in enumerate(batch.sequences):
        routes[place, : sequence.tokens] = _sequence(sequence, experts_W)
    return routes.reshape(-1, len(experts_W))


def _sequence(sequence: PackedSequence, experts_W: NDArray[np.uint16]) -> NDArray[np.int16]:
    """(tokens, W)"""
    prompt = len(sequence.prompt_ids)
    routes = np.full((sequence.tokens, len(experts_W)), UNKNOWN, np.int16)
    start = prompt
    for response, numbers in zip(sequence.responses, sequence.routes, strict=True):
        end = start + len(response) - 1
        if numbers:
            own = _response(numbers, prompt + len(response) - 1, experts_W)
            routes[:prompt], routes[start:end] = own[:prompt], own[prompt:]
        start = end
    return routes


def _response(numbers: Sequence[int], tokens: int, experts_W: NDArray[np.uint16]) -> NDArray[np.int16]:
    """(tokens, W)"""
    width = len(experts_W)
    if len(numbers) != tokens * width:
        raise RunError(
            f"the sampler chose {len(numbers)} experts for {tokens} tokens, and the learner's model has {width} for "
            "each token: they have different models"
        )
    routes = np.asarray(numbers, dtype=np.uint16).reshape(-1, width)
    wrong = (routes >= experts_W) & (routes != UNKNOWN_EXPERT)
    if wrong.any():
        token, place = np.argwhere(wrong)[0]
        raise RunError(
            f"the sampler chose expert {routes[token, place]}, counted from 0, and that layer of the learner's model "
            f"has {experts_W[place]} experts: they have different models"
        )
    return routes.astype(np.int16)  # UNKNOWN_EXPERT becomes UNKNOWN
