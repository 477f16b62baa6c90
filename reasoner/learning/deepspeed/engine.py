"""The learner on DeepSpeed: parameters, gradients and optimiser state sharded as ZeRO does, in host memory on demand.

The same algorithm-blind accumulator as `torch_engine.py`: same weights in, same gradient out. All ranks hold the whole
batch; each puts its share of the groups through the model. What that takes: DeepSpeed averages gradients over ranks, so
losses are multiplied by their number; `step` ends an accumulation, not a count; and ranks go through the model equally
often, with a token that weighs nothing where a share is smaller, because every pass of one waits for the same pass of
the others. How often they agree on before the first pass: any exchange in between would meet one of DeepSpeed's.

In bfloat16 the parameters are bfloat16; gradients add up in float32, over micro-batches and over ranks, and the
optimiser keeps float32 copies.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.ranks import ALONE, Ranks, share_patience
from reasoner.distributed.sharding import (
    GroupRows,
    Selection,
    rows_by_group,
    same_batch,
    sharded_outputs,
    with_tokens,
)
from reasoner.errors import RunError
from reasoner.learning.batching.inputs import ModelInputs, ModelOutputs
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.learning.batching.weighing import WeightedLoss, weigh_batch
from reasoner.learning.deepspeed.settings import deepspeed_settings
from reasoner.learning.deepspeed.state import exact_weight, moments, restore, restore_weights
from reasoner.learning.device import prepare_device
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.learning.model.model_weights import Dtype, Fetch
from reasoner.learning.model.options import ModelOptions
from reasoner.learning.model.policy import TorchPolicy
from reasoner.learning.optimizer import STEM, TRAINED, load_version, save_version, skip_reason, trained_weights
from reasoner.learning.schedule import learning_rate
from reasoner.learning.sequence_parallel import SequenceRanks
from reasoner.models.tensor_files import write_shards
from reasoner.records import Group, Response

T = TypeVar("T")

_IDLE = MicroBatch((PackedSequence((0,), ((0,),), (0,)),))
"""what a rank without a share puts through the model"""


class DeepspeedLearner:
    """A policy and its optimiser (the `Learner` protocol), on the process group that is open
    (`reasoner.distributed.ranks`)."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str,
        dtype: Dtype,
        config: LearningConfig,
        total_steps: int,
        ranks: Ranks = ALONE,
        trust_remote_code: bool = False,
        checkpoint: Path | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Load the model, a rank of a node after the other, and have DeepSpeed spread it.

        Args:
            folder: model and tokenizer in Hugging Face format.
            device: `cpu` or `cuda`.
            dtype: `float32` or `bfloat16`: number format of the forward pass and of the weights that are published.
            config: `[learning]`.
            total_steps: optimiser steps of the whole run, for the decay of the learning rate.
            ranks: all that train together.
            trust_remote_code: run Python code that comes with the model.
            checkpoint: folder in which `checkpoint` wrote, of this or the torch engine; the learner resumes from it.
            lora: train an adapter with the rest frozen; None: all weights.

        Raises:
            ConfigError: the user's DeepSpeed file contradicts the configuration.
        """
        settings = deepspeed_settings(config, dtype, device)
        deepspeed = _deepspeed(device)
        at_first = "cpu" if config.deepspeed.zero_stage == 3 else device  # 3 has no GPU hold all of it (`_shard`)
        options = replace(
            ModelOptions.of(config, at_first, dtype, trust_remote_code=trust_remote_code),
            autocast=False,
            weights=trained_weights(checkpoint),
            lora=lora,
            sequence=SequenceRanks.of(ranks),
        )
        with ranks.in_turn():
            self.policy = TorchPolicy(folder, options)
        if config.router_loss:
            self.policy.watch_routers()
        if config.routing_replay:
            self.policy.replay_routes()
        self.version = 0
        self._lora = lora
        self._config = config
        self._total_steps = total_steps
        self._losses: list[float] = []
        """of what went into the current gradient, on all ranks"""
        self._ranks = ranks
        self._gathered = deepspeed.zero.GatheredParameters
        self._name = f"deepspeed {deepspeed.__version__}"
        self._engine = _initialize(deepspeed, _Scores(self.policy), config, settings)
        share_patience()
        self.policy.device = torch.device(device)
        prepare_device(device)
        if checkpoint is not None:
            self._restore(checkpoint)

    @property
    def description(self) -> str:
        config = self._config
        offloaded = [
            name
            for name, on in (
                ("optimiser", config.deepspeed.offload_optimizer),
                ("parameters", config.deepspeed.offload_parameters),
            )
            if on
        ]
        moved = f", {' and '.join(offloaded)} in host memory" if offloaded else ""
        recompute = ", activations recomputed" if config.gradient_checkpointing else ""
        over = f" over {self._ranks.count} ranks" if self._ranks.count > 1 else ""
        over += f", {self._ranks.per_row} to a row" if self._ranks.per_row > 1 else ""
        zero = f"ZeRO {config.deepspeed.zero_stage}{over}{moved}"
        return f"{self._name}, {zero}; {self.policy.description}; AdamW{recompute}"

    @property
    def trained(self) -> Sequence[str]:
        return list(self.policy.trained)

    def perturbed(self, sizes: Mapping[str, float]) -> AbstractContextManager[None]:
        """As in the protocol; the optimiser's own copies of the weights stay as they are."""
        return self.policy.perturbed(sizes, lambda parameters: self._gathered(parameters, modifier_rank=0))

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[Sequence[float]]:
        self._check(rows_by_group(groups), groups, temperature)
        return sharded_outputs(groups, self._ranks, lambda share: self._logprobs(share, temperature))

    @torch.no_grad()
    def _logprobs(self, share: Sequence[GroupRows], temperature: float) -> dict[int, Sequence[float]]:
        """Log-probabilities of this rank's responses, by row."""
        logprobs: dict[int, Sequence[float]] = {}
        for batch in self._rounds(self.policy.packing.micro_batches(share)):
            inputs = self.policy.inputs(batch or _IDLE)
            logprobs_S, *_ = self._engine(inputs, temperature, False)
            if batch:
                logprobs |= inputs.by_row(batch, logprobs_S)
        return logprobs

    def accumulate(
        self,
        groups: Sequence[Group],
        weights: WeightFunction,
        temperature: float,
        *,
        selection: Selection | None = None,
        entropy: bool = False,
    ) -> Accumulated:
        selection = selection or Selection.of(groups, ranks=self._ranks)
        selection.check(self._ranks)
        same_batch(selection.parts, self._ranks)
        self._check(selection.parts, groups, temperature)
        balance_weight = self._config.router_loss / max(sum(len(part.rows) for part in selection.parts), 1)
        batches = self.policy.packing.micro_batches(with_tokens(selection.share, groups, self._ranks))
        responses = [response for group in groups for response in group.responses]
        weighed: list[WeightedLoss] = []
        for batch in self._rounds(batches):
            if batch:
                weighed.append(self._accumulate_one(batch, responses, balance_weight, weights, temperature, entropy))
            else:
                self._idle_pass(temperature, entropy)
        counts = Accumulated.of(batches, weighed)
        of_ranks = self._ranks.gather_shares((counts, [float(part.loss) for part in weighed if part.nonzero]))
        self._losses += [loss for _, losses in of_ranks for loss in losses]
        return sum((counts for counts, _ in of_ranks[1:]), of_ranks[0][0])

    def _check(self, selected: Sequence[GroupRows], groups: Sequence[Group], temperature: float) -> None:
        """As `TorchPolicy.check`, of a batch whose tokens are spread over the ranks."""
        self.policy.check(selected, temperature, partial(with_tokens, groups=groups, ranks=self._ranks))

    def _accumulate_one(
        self,
        batch: MicroBatch,
        responses: Sequence[Response],
        balance_weight: float,
        weights: WeightFunction,
        temperature: float,
        entropy: bool,
    ) -> WeightedLoss:
        """Forward, weigh, backward; no backward where every weight is 0 and no other rank waits for it."""
        inputs = self.policy.inputs(batch)
        scores = self._engine(inputs, temperature, entropy)
        weighed = weigh_batch(batch, responses, inputs, scores, weights, balance_weight)
        if weighed.nonzero or self._ranks.count > 1:
            # A loss that is not finite spoils the gradient, also where its derivative would be: the step is skipped.
            factor = self._ranks.count if math.isfinite(float(weighed.loss.detach())) else math.nan
            self._engine.backward(weighed.loss * factor + _zero(scores), scale_wrt_gas=False)
        return weighed.detached()

    def _rounds(self, batches: Sequence[MicroBatch]) -> list[MicroBatch | None]:
        """What this rank puts through the model, one after the other, as often as every other rank; None: nothing of
        its own is left, and it takes part with the idle one."""
        most = max(self._ranks.gather(len(batches)))
        return [*batches, *[None] * (most - len(batches))]

    def _idle_pass(self, temperature: float, entropy: bool) -> None:
        """Forward and backward for the other ranks' sake: the same collectives, and a gradient of zero."""
        scores = self._engine(self.policy.inputs(_IDLE), temperature, entropy)
        self._engine.backward(_zero(scores), scale_wrt_gas=False)

    def step(self) -> StepResult:
        config = self._config
        rate = learning_rate(self.version, self._total_steps, config.learning_rate, config.warmup_steps, config.decay)
        if not self._losses:
            return StepResult(False, "nothing to learn from: every weight was zero", 0.0, rate, self.version)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self.version += 1  # first: an interrupt while the weights change must not leave them with the old number
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        reason = skip_reason(self._losses, norm)
        assert self._engine.was_step_applied() == (not reason), f"DeepSpeed and its gradient norm {norm} disagree"
        if reason:
            self.version -= 1
            self._forget()
        self._losses.clear()
        return StepResult(not reason, reason, norm, rate, self.version, finite=not reason)

    def _forget(self) -> None:
        """Drop the sums of a gradient that was not finite: DeepSpeed keeps those of an offloaded optimiser."""
        sums = getattr(self._engine.optimizer, "averaged_gradients", None)
        if self._config.deepspeed.zero_stage in (1, 2) and isinstance(sums, dict):
            sums.update(dict.fromkeys(sums))

    def publish(self, folder: Path) -> str:
        """As in the protocol; the first rank of every node writes, while all of them gather weight after weight."""
        writes = self._ranks.leads_node
        weights = self.policy.weights.published(partial(self._gather, wanted=writes))

        return self._written_by(writes, weights, lambda: self.policy.weights.publish(folder, weights)) or ""

    def device_weights(self) -> Iterator[tuple[str, Tensor]] | None:
        """What `publish` writes, from the GPU, gathered by all ranks; None: the model is on a CPU."""
        if self.policy.device.type != "cuda":
            return None
        return self.policy.weights.published(partial(self._gather, wanted=True, device="cuda"))

    def save(self, folder: Path) -> None:
        """As in the protocol; the first rank writes."""
        writes = self._ranks.first
        weights = self.policy.weights.tensors(partial(self._gather, wanted=writes))
        self._written_by(writes, weights, lambda: self.policy.weights.save(folder, weights))

    def checkpoint(self, folder: Path) -> None:
        """As in the protocol; the first rank writes."""
        writes = self._ranks.first
        if writes:
            save_version(folder, self.version)
        if not self.version:
            return
        fetch = partial(self._gather_exact, wanted=writes)
        weights = self.policy.weights.tensors(fetch, exact=True) if self._lora is None else self._adapter(fetch)
        self._written_by(writes, weights, lambda: self.policy.weights.write_checkpoint(folder / TRAINED, weights))
        tensors = moments(self.policy.trained, self._engine.optimizer, self.version)
        self._written_by(writes, tensors, lambda: write_shards(folder, STEM, tensors))

    def _adapter(self, fetch: Fetch) -> Iterator[tuple[str, Tensor]]:
        """The adapter's weights by their names in memory; nothing on a rank where they are not wanted."""
        for name, value in self.policy.weights.checkpointed().items():
            parts = fetch((value,))
            if parts is not None:
                yield name, parts[0]

    def _restore(self, checkpoint: Path) -> None:
        self.version = load_version(checkpoint)
        if self.version:
            restore(self.policy.trained, self._engine.optimizer, checkpoint, self.version, self._idle_step)
            restore_weights(self.policy, checkpoint)

    def _idle_step(self) -> None:
        """An optimiser step that changes no weight."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = 0.0
        self._idle_pass(1.0, entropy=False)
        self._engine.step()

    def _written_by(self, writes: bool, weights: Iterator[object], write: Callable[[], T]) -> T | None:
        """What `write` gives on a rank that writes, and on the first one elsewhere.

        All ranks gather `weights`, one after the other. An error of one rank is raised by all, so that none waits.
        """
        outcome: T | Exception | None = None
        try:
            outcome = write() if writes else None
        except (OSError, RunError) as error:
            outcome = error
        finally:
            deque(weights, maxlen=0)  # whatever became of the file here, the other ranks wait for this one
        outcomes = self._ranks.gather(outcome)
        for result in outcomes:
            if isinstance(result, Exception):
                raise result
        return cast(T | None, outcomes[0])

    def _gather(self, parts: Sequence[Tensor], *, wanted: bool, device: str = "cpu") -> tuple[Tensor, ...] | None:
        """The parts in memory of the device; None on a rank where they are not wanted."""
        with self._gathered([part for part in parts if isinstance(part, nn.Parameter)]):
            return tuple(part.detach().to(device, copy=True) for part in parts) if wanted else None

    def _gather_exact(self, parts: Sequence[Tensor], *, wanted: bool) -> tuple[Tensor, ...] | None:
        """As `_gather`, in the float32 numbers that the optimiser changes, where it has them."""
        weights = [exact_weight(part) if part.requires_grad else None for part in parts]
        if any(part is None for part in weights):
            return self._gather(parts, wanted=wanted)
        return tuple(part.to("cpu", copy=True) for part in weights if part is not None) if wanted else None


class _Scores(nn.Module):
    """The policy as one module: DeepSpeed moves parameters as the forward pass of its parts needs them."""

    def __init__(self, policy: TorchPolicy) -> None:
        super().__init__()
        self.model, self.head = policy.model, policy.head
        self._policy = policy

    def forward(self, inputs: ModelInputs, temperature: float, entropy: bool) -> ModelOutputs:
        return self._policy.scores(inputs, temperature, entropy)


def _zero(scores: ModelOutputs) -> Tensor:
    """A loss of 0 with a gradient for all that a forward pass gave: under ZeRO 3 the backward pass gathers parameters
    for each output that has one, and must do so on every rank."""
    return 0.0 * sum((part.sum() for part in scores[1:] if part is not None), scores[0].sum())


def _initialize(deepspeed: Any, module: nn.Module, config: LearningConfig, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine around `module`."""
    plain = config.deepspeed.zero_stage == 0
    optimizer = (_PlainAdamW if plain else torch.optim.AdamW)(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    if isinstance(optimizer, _PlainAdamW):
        optimizer.limit = config.max_grad_norm
        settings = settings | {"gradient_clipping": 0.0}
    with _quiet():
        if config.deepspeed.zero_stage == 3:
            _shard(deepspeed, module, settings)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    return engine


def _shard(deepspeed: Any, module: nn.Module, settings: dict[str, Any]) -> None:
    """Spread the parameters of a module over the ranks, one after the other: `deepspeed.initialize` itself would move
    the whole module to the GPU first."""
    dtype = torch.bfloat16 if settings["bf16"]["enabled"] else torch.float32
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    deepspeed.zero.Init(module, config_dict_or_path=settings, dtype=dtype)
    device = deepspeed.get_accelerator().current_device_name()
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


class _PlainAdamW(torch.optim.AdamW):
    """AdamW that clips, and skips a step whose gradient is not finite: without ZeRO DeepSpeed does not look.

    DeepSpeed reads `overflow` and `_global_grad_norm` from an optimiser that has them.
    """

    limit: float | None = None
    overflow = False
    _global_grad_norm = 0.0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        limit = math.inf if self.limit is None else self.limit
        self._global_grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        self.overflow = not math.isfinite(self._global_grad_norm)
        if not self.overflow:
            super().step(closure)


def _deepspeed(device: str) -> Any:
    """The package, told which device to use, to be quiet, and not to compile anything on a CPU."""
    os.environ["DS_ACCELERATOR"] = device
    with _quiet():
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(reduce_scatter|all_gather).* is deprecated", category=FutureWarning)
    # Its own collectives through shared memory would be compiled at the first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what DeepSpeed prints, and the warnings of what it imports."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
