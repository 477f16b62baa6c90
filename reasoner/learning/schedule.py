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
