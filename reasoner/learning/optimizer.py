"""What turns an accumulated gradient into a step: AdamW, its schedule, clipping, and the version of the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import Ranks
from reasoner.errors import RunError
from reasoner.learning.learner import StepResult
from reasoner.learning.schedule import learning_rate
from reasoner.models.tensor_files import read_files, write_shards

TRAINED = "model"
"""The folder of a checkpoint that has the weights, in Hugging Face format, or those of the adapter alone. It is absent
before the first optimiser step, when the weights are the initial ones."""
STATE_FILE = "optimizer.json"
STEM = "optimizer"
"""The start of the names of the files with the optimiser's tensors: `<what it is>/<parameter>`, with `exp_avg`,
`exp_avg_sq` and `step` of AdamW, and what bitsandbytes keeps of its 8-bit form."""
MOMENTS_8BIT = ("state1", "state2")
"""The moments of bitsandbytes' AdamW: of a weight's shape, in numbers of 8 bits or, of small weights, of 32."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""The moments of AdamW by the names that torch and DeepSpeed give them."""


class Optimizer:
    """AdamW over the parameters that are trained.

    A gradient of (3, 4) has the norm 5; clipped to 1 it is (0.6, 0.8), of which AdamW's first moment takes a tenth:

    >>> parameter = nn.Parameter(torch.zeros(2))
    >>> optimizer = Optimizer([("p", parameter)], LearningConfig(max_grad_norm=1.0), peak=0.1, total_steps=9)
    >>> optimizer.backward((parameter * torch.tensor([3.0, 4.0])).sum())
    >>> optimizer.step().grad_norm
    5.0
    >>> optimizer._adamw.state[parameter]["exp_avg"]
    tensor([0.0600, 0.0800])
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], config: LearningConfig, *, peak: float, total_steps: int
    ) -> None:
        """Prepare the optimiser.

        Args:
            parameters: by name; those that need no gradient are left alone.
            config: `[learning]`, except for its learning rate.
            peak: learning rate after the warm-up.
            total_steps: optimiser steps of the whole run, for the decay of the learning rate.
        """
        self.version = 0
        self._config = config
        self._peak = peak
        self._total_steps = total_steps
        self._named = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        self._parameters = list(self._named.values())
        self._adamw = _adamw(self._parameters, config, peak)
        self._losses: list[Tensor] = []

    @property
    def name(self) -> str:
        """For the log."""
        names = {"adamw": "AdamW", "adamw-8bit": "AdamW of 8 bits", "paged-adamw-8bit": "paged AdamW of 8 bits"}
        return names[self._config.optimizer]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]
        self._losses.append(loss.detach())

    def sum_over(self, ranks: Ranks) -> None:
        """Sum the gradient, and collect the losses that it comes from, over all ranks, each of which holds the same
        parameters."""
        if ranks.count == 1:
            return
        local = [loss.item() for loss in self._losses], [value.grad is not None for value in self._parameters]
        of_ranks = ranks.gather(local)
        self._losses = [torch.tensor(loss) for losses, _ in of_ranks for loss in losses]
        for index, parameter in enumerate(self._parameters):
            if any(has[index] for _, has in of_ranks):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                ranks.sum(parameter.grad)

    def step(self) -> StepResult:
        """Clip, update, zero the gradient; a loss or gradient that is not finite is dropped and reported."""
        config = self._config
        rate = learning_rate(self.version, self._total_steps, self._peak, config.warmup_steps, config.decay)
        if not self._losses:
            return StepResult(False, "nothing to learn from: every weight was zero", 0.0, rate, self.version)
        limit = config.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit if limit is not None else float("inf")))
        losses = torch.stack(self._losses).tolist()
        reason = skip_reason(losses, norm)
        if not reason:
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self.version += 1  # first: an interrupt while the weights change must not leave them with the old number
            self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._losses.clear()
        return StepResult(not reason, reason, norm, rate, self.version, finite=not reason)

    def save(self, folder: Path) -> None:
        """Write the version and AdamW's moments, exactly, into `folder`."""
        save_version(folder, self.version)
        if self.version:
            write_shards(folder, STEM, self._tensors())

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            RunError: it belongs to another model.
        """
        self.version = load_version(folder)
        for key, tensor in read_files(folder, f"{STEM}-*"):
            kind, _, name = key.partition("/")
            parameter = self._named.get(name)
            if parameter is None or (kind in (*MOMENTS, *MOMENTS_8BIT) and parameter.shape != tensor.shape):
                raise RunError(
                    f"{folder} holds {key!r} of shape {list(tensor.shape)}, which is not of a parameter of the model "
                    "that is trained: the checkpoint was made with another model, or another version of transformers"
                )
            self._adamw.state[parameter][kind] = self._restored(kind, tensor, parameter)

    def _restored(self, kind: str, tensor: Tensor, parameter: nn.Parameter) -> Tensor | int:
        """A part of the state of a parameter, as the optimiser holds it."""
        if kind == "step" and self._config.optimizer != "adamw":
            return int(tensor)
        if kind in MOMENTS_8BIT and self._config.optimizer == "paged-adamw-8bit":
            buffer: Tensor = self._adamw.get_state_buffer(parameter, dtype=tensor.dtype)  # type: ignore[attr-defined]
            return buffer.copy_(tensor)
        return tensor.to(parameter.device)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._named.items():
            for kind, value in self._adamw.state.get(parameter, {}).items():
                yield f"{kind}/{name}", torch.as_tensor(value)


def _adamw(parameters: Sequence[nn.Parameter], config: LearningConfig, rate: float) -> torch.optim.Optimizer:
    """The optimiser that is configured."""
    settings: dict[str, Any] = {"lr": rate, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        # Fused: one pass over memory and no temporary copy of the parameters.
        return torch.optim.AdamW(parameters, fused=True, **settings)
    from bitsandbytes import optim

    kind = optim.PagedAdamW8bit if config.optimizer == "paged-adamw-8bit" else optim.AdamW8bit
    optimizer: torch.optim.Optimizer = kind(parameters, **settings)
    return optimizer


def skip_reason(losses: Sequence[float], norm: float) -> str:
    """Why a step must not be made; empty: it may be.

    >>> skip_reason([0.5, -0.25], norm=3.0)
    ''
    >>> skip_reason([0.5], norm=float("inf"))
    'the gradient is not finite (norm inf): step skipped'

    Args:
        losses: of the micro-batches.
        norm: of the gradient, before clipping.
    """
    if not all(map(math.isfinite, losses)):
        return f"the loss is not finite ({sum(losses)}): step skipped"
    if not math.isfinite(norm):
        return f"the gradient is not finite (norm {norm}): step skipped"
    return ""


def save_version(folder: Path, version: int) -> None:
    """Write how many optimiser steps a checkpoint has behind it."""
    (folder / STATE_FILE).write_text(json.dumps({"version": version}) + "\n")


def load_version(folder: Path) -> int:
    """What `save_version` wrote."""
    return int(json.loads((folder / STATE_FILE).read_text())["version"])


def trained_weights(checkpoint: Path | None) -> Path | None:
    """The folder with the weights of a checkpoint; None: they are the initial ones."""
    return checkpoint / TRAINED if checkpoint is not None and (checkpoint / TRAINED).exists() else None
