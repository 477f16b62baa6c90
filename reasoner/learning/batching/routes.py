"""The experts that the sampler chose, laid out as the tokens of a micro-batch are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reasoner.errors import RunError
from reasoner.learning.batching.packing import MicroBatch, PackedSequence

UNKNOWN = -1
"""instead of an expert, where the sampler said none"""


def flat_routes(batch: MicroBatch, width: int) -> NDArray[np.int16] | None:
    """(L, width) the experts of every token of the flat input; None: no response has any.

    A shared prompt has those with which the first of its responses read it.

    >>> sequence = PackedSequence((1, 2), ((7, 8, 9), (5, 6)), (0, 1), ((3, 0, 1, 2), (3, 0, 2)))
    >>> flat_routes(MicroBatch((sequence,)), 1).ravel()  # 1, 2, 7, 8, 5; 9 and 6 are not read
    array([3, 0, 1, 2, 2], dtype=int16)

    Args:
        width: numbers of a token: layers x experts of each.

    Raises:
        RunError: the sampler has other layers.
    """
    if not any(route for sequence in batch.sequences for route in sequence.routes):
        return None
    return np.concatenate([_sequence(sequence, width) for sequence in batch.sequences])


def padded_routes(batch: MicroBatch, width: int) -> NDArray[np.int16] | None:
    """(B * L, width): as `flat_routes`, of single responses that are padded to the longest."""
    if not any(route for sequence in batch.sequences for route in sequence.routes):
        return None
    longest = max(sequence.tokens for sequence in batch.sequences)
    routes = np.full((len(batch.sequences), longest, width), UNKNOWN, np.int16)
    for place, sequence in enumerate(batch.sequences):
        routes[place, : sequence.tokens] = _sequence(sequence, width)
    return routes.reshape(-1, width)


def _sequence(sequence: PackedSequence, width: int) -> NDArray[np.int16]:
    """(tokens, width)"""
    prompt = len(sequence.prompt_ids)
    rows = [_response(route, width) for route in sequence.routes]
    routes = np.full((sequence.tokens, width), UNKNOWN, np.int16)
    known = next((row for row in rows if len(row)), rows[0])[:prompt]
    routes[: len(known)] = known
    start = prompt
    for response, row in zip(sequence.responses, rows, strict=True):
        own = row[prompt : prompt + len(response) - 1]
        routes[start : start + len(own)] = own
        start += len(response) - 1
    return routes


def _response(route: object, width: int) -> NDArray[np.int16]:
    numbers = np.asarray(route, dtype=np.uint16)
    if len(numbers) % width:
        raise RunError(
            f"the sampler chose {len(numbers)} experts for the tokens of a response, and the learner's model has "
            f"{width} for each token: they have different models"
        )
    return numbers.astype(np.int16).reshape(-1, width)
