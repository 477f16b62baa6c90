"""JSON values that a call returned: bounded, storable, without secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from reasoner.io.redaction import hide
from reasoner.io.safe_text import storable

V = TypeVar("V")

MAX_RESULT_BYTES = 2**20
"""bytes of JSON"""
MAX_DEPTH = 32
"""levels of nesting"""


def json_values(value: V, what: str) -> V:
    """The value as it can be stored.

    Args:
        what: what messages call it.

    Raises:
        ValueError: JSON cannot hold it, or it is too large.
    """
    try:
        _check_depth(value, MAX_DEPTH)
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} must hold JSON values only: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"{what} may take {MAX_RESULT_BYTES} bytes together, got {size}")
    stored: V = storable(hide(value))
    return stored


def _check_depth(value: object, levels: int) -> None:
    if levels == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_depth(item, levels - 1)
