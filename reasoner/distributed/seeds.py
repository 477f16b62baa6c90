"""Where the random numbers of a run start: every seed is a hash of `run.seed` and of what it is for.

Nothing adds to a seed: with `seed + step`, seed 0 at step 2 and seed 1 at step 1 would draw the same noise.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal["sampling", "greedy", "evaluation", "gate", "engine", "server", "step", "prompt", "turn"]
"""What the random numbers are for: a step's responses, its greedy responses, an evaluation, the gate before training;
one engine of several, a server; Python's, numpy's and torch's own generators during a step; a prompt's responses, where
an engine takes a seed for each, and a turn of one of them."""


def derive_seed(seed: int, purpose: Purpose, *parts: int | str) -> int:
    """A seed of its own for every purpose and its parts, the same on every machine.

    It is below 2^63, which `torch.manual_seed`, vLLM and an int64 column take. On a CPU torch reads the lower 32 bits.

    Args:
        seed: `run.seed`, or a seed that was derived from it.
        parts: what tells one use from another: step and round, the engine's number.
    """
    text = "\0".join(map(str, (seed, purpose, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
