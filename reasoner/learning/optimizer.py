"""What turns an accumulated gradient into a step: AdamW, its schedule, clipping, and the version of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from reasoner.config import LearningConfig
from reasoner.learning.learner import StepResult
from reasoner.learning.schedule import learning_rate


class Optimizer:
    """AdamW over the parameters that are trained."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], config: LearningConfig, *, peak: float, total_steps: int
    ) -> None:
        """Prepare the optimiser.

        Args:
            parameters: those that need no gradient are left alone.
            config: `[learning]`, except for its learning rate.
            peak: learning rate after the warm-up.
            total_steps: optimiser steps of the whole run, for the decay of the learning rate.
        """
        self.version = 0
        self._config = config
        self._peak = peak
        self._total_steps = total_steps
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        # Fused: one pass over memory and no temporary copy of the parameters.
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=peak, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        self._losses: list[Tensor] = []

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]
        self._losses.append(loss.detach())

    def step(self) -> StepResult:
        """Clip, update, zero the gradient; a loss or gradient that is not finite is dropped and reported."""
        config = self._config
        rate = learning_rate(self.version, self._total_steps, self._peak, config.warmup_steps, config.decay)
        if not self._losses:
            return StepResult(False, "nothing to learn from: every weight was zero", 0.0, rate, self.version)
        limit = config.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit if limit is not None else float("inf")))
        losses = torch.stack(self._losses).tolist()
        reason = why_not(losses, norm)
        if not reason:
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self._adamw.step()
            self.version += 1
        self._adamw.zero_grad(set_to_none=True)
        self._losses.clear()
        return StepResult(not reason, reason, norm, rate, self.version, finite=not reason)


def why_not(losses: Sequence[float], norm: float) -> str:
    """Why a step must not be made; empty: it may be."""
    if not all(map(math.isfinite, losses)):
        return f"the loss is not finite ({sum(losses)}): step skipped"
    if not math.isfinite(norm):
        return f"the gradient is not finite (norm {norm}): step skipped"
    return ""
