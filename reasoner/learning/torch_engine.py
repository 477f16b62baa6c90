"""The learner in plain torch: one process, one device.

AdamW over float32 parameters (see `backbone.py` for bfloat16); dropout is 0; the loss of a micro-batch is
`- sum w * l - sum v * H`, the second sum with an entropy bonus only. Nothing is normalised here, so the gradient does
not depend on how the batch was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.sharding import Selection
from reasoner.learning.batching.packing import MicroBatch
from reasoner.learning.batching.weighing import WeightedLoss, weigh_batch
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.learning.model.model_weights import Dtype
from reasoner.learning.model.options import ModelOptions
from reasoner.learning.model.policy import TorchPolicy
from reasoner.learning.optimizer import TRAINED, Optimizer, trained_weights
from reasoner.records import Group, Response


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
        checkpoint: Path | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Load the model and prepare the optimiser.

        Args:
            folder: model and tokenizer in Hugging Face format.
            device: a torch device, `cpu` or `cuda`.
            dtype: number format of the forward pass and of the weights that are published and saved.
            config: `[learning]`.
            total_steps: optimiser steps of the whole run, for the decay of the learning rate.
            trust_remote_code: run Python code that comes with the model.
            checkpoint: folder in which `checkpoint` wrote; the learner resumes from it.
            lora: train an adapter with the rest frozen; None: all weights.
        """
        options = ModelOptions.of(config, device, dtype, trust_remote_code=trust_remote_code)
        self.policy = TorchPolicy(folder, replace(options, weights=trained_weights(checkpoint), lora=lora))
        if config.router_loss:
            self.policy.watch_routers()
        if config.routing_replay:
            self.policy.replay_routes()
        self._config = config
        self._optimizer = Optimizer(
            self.policy.model.named_parameters(), config, peak=config.learning_rate, total_steps=total_steps
        )
        if checkpoint is not None:
            self._optimizer.load(checkpoint)

    @property
    def description(self) -> str:
        recompute = ", activations recomputed" if self._config.gradient_checkpointing else ""
        return f"{self.policy.description}; {self._optimizer.name}{recompute}"

    @property
    def version(self) -> int:
        return self._optimizer.version

    @property
    def trained(self) -> Sequence[str]:
        return list(self.policy.trained)

    def perturbed(self, sizes: Mapping[str, float]) -> AbstractContextManager[None]:
        return self.policy.perturbed(sizes)

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[Sequence[float]]:
        return self.policy.logprobs(groups, temperature)

    def accumulate(
        self,
        groups: Sequence[Group],
        weights: WeightFunction,
        temperature: float,
        *,
        selection: Selection | None = None,
        entropy: bool = False,
    ) -> Accumulated:
        parts = (selection or Selection.of(groups)).parts
        self.policy.check(parts, temperature)
        responses = [response for group in groups for response in group.responses]
        balance_weight = self._config.router_loss / max(sum(len(part.rows) for part in parts), 1)
        batches = self.policy.packing.micro_batches(parts)
        weighed = [
            self._accumulate_one(batch, responses, balance_weight, weights, temperature, entropy) for batch in batches
        ]
        return Accumulated.of(batches, weighed)

    def _accumulate_one(
        self,
        batch: MicroBatch,
        responses: Sequence[Response],
        balance_weight: float,
        weights: WeightFunction,
        temperature: float,
        entropy: bool,
    ) -> WeightedLoss:
        """Forward, weigh, and backward unless every weight is 0. A function of its own, so that nothing of the
        micro-batch lives on during the forward pass of the next one."""
        inputs = self.policy.inputs(batch)
        outputs = self.policy.scores(inputs, temperature, entropy)
        weighed = weigh_batch(batch, responses, inputs, outputs, weights, balance_weight)
        if weighed.nonzero:
            self._optimizer.backward(weighed.loss)
        return weighed.detached()

    def step(self) -> StepResult:
        return self._optimizer.step()

    def publish(self, folder: Path) -> str:
        return self.policy.weights.publish(folder)

    def device_weights(self) -> Iterator[tuple[str, Tensor]] | None:
        """What `publish` writes, from the GPU; None: the model is on a CPU."""
        return self.policy.weights.published() if self.policy.device.type == "cuda" else None

    def save(self, folder: Path) -> None:
        self.policy.weights.save(folder)

    def checkpoint(self, folder: Path) -> None:
        self._optimizer.save(folder)
        if self.version:
            self.policy.weights.write_checkpoint(folder / TRAINED)
