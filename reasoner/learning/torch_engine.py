"""The learner in plain torch: one process, one device.

AdamW over float32 parameters (see `policy.py` for bfloat16); dropout is 0; the loss of a micro-batch is `- sum w * l`.
Nothing is normalised here, so the gradient does not depend on how the batch was cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from reasoner.config import LearningConfig
from reasoner.learning.inputs import Inputs
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.learning.packing import MicroBatch
from reasoner.learning.policy import Dtype, TorchPolicy, no_progress_bars
from reasoner.learning.schedule import learning_rate
from reasoner.records import Group, Response
from reasoner.weights import write_weights


class TorchLearner:
    """A policy and its optimiser (the `Learner` protocol)."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str,
        dtype: Dtype,
        config: LearningConfig,
        total_steps: int,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the model and prepare the optimiser.

        Args:
            folder: model and tokenizer in Hugging Face format.
            device: a torch device, `cpu` or `cuda`.
            dtype: number format of the forward pass and of the weights that are published and saved.
            config: `[learning]`.
            total_steps: optimiser steps of the whole run, for the decay of the learning rate.
            trust_remote_code: run Python code that comes with the model.
        """
        self.policy = TorchPolicy(
            folder,
            device=device,
            dtype=dtype,
            token_budget=config.token_budget,
            logit_chunk=config.logit_chunk,
            share_prompts=config.share_prompts,
            gradient_checkpointing=config.gradient_checkpointing,
            trust_remote_code=trust_remote_code,
        )
        self._folder = folder
        self._trust = trust_remote_code
        self._config = config
        self._total_steps = total_steps
        self._parameters = [p for p in self.policy.model.parameters() if p.requires_grad]
        # Fused: one pass over memory and no temporary copy of the parameters.
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._version = 0
        self._has_gradient = False

    @property
    def description(self) -> str:
        recompute = ", activations recomputed" if self._config.gradient_checkpointing else ""
        return f"{self.policy.description}; AdamW{recompute}"

    @property
    def version(self) -> int:
        return self._version

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return self.policy.logprobs(groups, temperature)

    def accumulate(self, groups: Sequence[Group], weights: WeightFunction, temperature: float) -> Accumulated:
        self.policy.check(groups, temperature)
        responses = [response for group in groups for response in group.responses]
        batches = self.policy.packing.micro_batches(groups)
        loss = sum(self._accumulate_one(batch, responses, weights, temperature) for batch in batches)
        return Accumulated(
            rows=sum(len(batch.rows) for batch in batches),
            tokens=sum(batch.tokens for batch in batches),
            response_tokens=sum(len(response.token_ids) for response in responses),
            responses=len(responses),
            loss=float(loss),
        )

    def _accumulate_one(
        self, batch: MicroBatch, responses: Sequence[Response], weights: WeightFunction, temperature: float
    ) -> float:
        """Forward, weigh, backward; no backward where every weight is 0. Returns - sum w * l."""
        logprobs_S, inputs = self.policy.forward(batch, temperature)
        masks = [responses[index].policy_mask for index in batch.indices]
        mask_S = torch.tensor(list(chain.from_iterable(masks)), device=self.policy.device)
        weights_S = torch.where(mask_S, _weigh(weights, batch.indices, logprobs_S.detach(), inputs), 0.0)
        loss = -(weights_S * logprobs_S).sum()
        if weights_S.any():
            loss.backward()  # type: ignore[no-untyped-call]
            self._has_gradient = True
        return float(loss.detach())

    def step(self) -> StepResult:
        rate = learning_rate(
            self._version, self._total_steps, self._config.learning_rate, self._config.warmup_steps, self._config.decay
        )
        if not self._has_gradient:
            return StepResult(False, "nothing to learn from: every weight was zero", 0.0, rate, self._version)
        limit = self._config.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit if limit is not None else float("inf")))
        applied = math.isfinite(norm)
        if applied:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            self._version += 1
        self._optimizer.zero_grad(set_to_none=True)
        self._has_gradient = False
        reason = "" if applied else f"the gradient is not finite (norm {norm}): step skipped"
        return StepResult(applied, reason, norm, rate, self._version)

    def publish(self, folder: Path) -> str:
        return write_weights(folder, self._weights())

    def save(self, folder: Path) -> None:
        with no_progress_bars():
            self.policy.model.save_pretrained(folder, state_dict=self._weights())
        # The source's own configuration, not the loaded one, in which dropout was set to 0.
        config = AutoConfig.from_pretrained(self._folder, trust_remote_code=self._trust)
        config.dtype = self._published_dtype
        config.save_pretrained(folder)
        AutoTokenizer.from_pretrained(self._folder, trust_remote_code=self._trust).save_pretrained(folder)

    @property
    def _published_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.policy.dtype)
        return dtype

    def _weights(self) -> dict[str, Tensor]:
        """The weights as they are published, by name; a tied output layer is there under its own name too."""
        cast: dict[int, Tensor] = {}  # what shares memory still does afterwards: transformers writes it once
        state = self.policy.model.state_dict()
        return {name: cast.setdefault(value.data_ptr(), self._cast(value)) for name, value in state.items()}

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._published_dtype) if value.is_floating_point() else value


def _weigh(weights: WeightFunction, rows: Sequence[int], logprobs_S: Tensor, inputs: Inputs) -> Tensor:
    """(S,) weights of the response tokens."""
    logprobs_RT = inputs.padded(logprobs_S)
    weights_RT = weights(rows, logprobs_RT)
    if weights_RT.shape != logprobs_RT.shape:
        raise ValueError(f"weights of shape {tuple(logprobs_RT.shape)} are needed, got {tuple(weights_RT.shape)}")
    return inputs.flat(weights_RT.detach().to(logprobs_RT))
