"""The learning rate of every optimiser step. Pure."""

from __future__ import annotations

import math
from typing import Literal

LearningRateDecay = Literal["constant", "linear", "cosine"]


def learning_rate(step: int, total_steps: int, peak: float, warmup_steps: int, decay: LearningRateDecay) -> float:
    """The rate of optimiser step `step`, counted from 0.

    Warm-up: peak * (step + 1) / warmup_steps. After it, with p = (step - warmup_steps) / (total_steps - warmup_steps):
    peak (constant), peak * (1 - p) (linear) or peak * (1 + cos(pi p)) / 2 (cosine). The decay reaches 0 just after the
    last step, so that no step is idle.

    >>> [round(learning_rate(step, 6, 1.0, 2, "constant"), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> [round(learning_rate(step, 6, 1.0, 2, "linear"), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [round(learning_rate(step, 6, 1.0, 2, "cosine"), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]

    Args:
        step: optimiser steps before this one.
        total_steps: of the whole run.
        peak: the rate after the warm-up.
        warmup_steps: optimiser steps of the warm-up.
        decay: how the rate falls after it.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    match decay:
        case "constant":
            return peak
        case "linear":
            return peak * (1.0 - progress)
        case "cosine":
            return peak * (1.0 + math.cos(math.pi * progress)) / 2.0
