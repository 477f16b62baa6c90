"""How a model is loaded and how sequences go through it: the same for policies, references, teachers and critics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from reasoner.config import LearningConfig, LoraConfig
from reasoner.learning.batching.packing import Layout, Sharing
from reasoner.learning.model.model_weights import Dtype
from reasoner.learning.sequence_parallel import WHOLE, SequenceRanks


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What `Backbone` and `TorchPolicy` are built with, besides the model's folder."""

    device: str
    """A torch device, `cpu` or `cuda`."""
    dtype: Dtype
    """Number format of the forward pass; float64 is for tests."""
    token_budget: int
    """Tokens per micro-batch."""
    logit_chunk: int | None = None
    """Response positions whose logits are in memory at once; None: as many as suit the device."""
    packing: Layout = "auto"
    """Whether sequences are laid one after the other without padding; `auto`: where the model can."""
    share_prompts: Sharing = "auto"
    """Whether a group's prompt goes through the model once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    offload_activations: bool = False
    """Keep the inputs of recomputed layers in host memory; for a GPU."""
    mlp_tile: int | None = None
    """Tokens that go through an MLP at once; None: all."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    autocast: bool = True
    """With bfloat16, keep float32 parameters; otherwise the parameters are bfloat16 too."""
    weights: Path | None = None
    """A folder that `ModelWeights.write_checkpoint` wrote: the weights, or those of the adapter, are read from it, and
    everything else from the model's folder; None: all from the model's folder."""
    lora: LoraConfig | None = None
    """Freeze the model and put an adapter into it, which is published alone with `handover = "adapter"`; None:
    without."""
    experts: Literal["auto", "eager", "batched_mm", "grouped_mm"] = "auto"
    """Implementation of the experts of a mixture; `auto`: transformers chooses."""
    required: bool = True
    """Whether `packing`, `share_prompts`, `mlp_tile` and `experts` are errors where the model cannot have them. They
    are chosen for the policy; a teacher or critic of another kind takes of them what it can."""
    sequence: SequenceRanks = WHOLE
    """The ranks that put every row through the model together; a row has `token_budget` tokens for each."""

    @classmethod
    def of(cls, config: LearningConfig, device: str, dtype: Dtype, *, trust_remote_code: bool) -> Self:
        """Those of a model that is trained as `[learning]` says."""
        return cls(
            device=device,
            dtype=dtype,
            token_budget=config.token_budget,
            logit_chunk=config.logit_chunk,
            packing=config.packing,
            share_prompts=config.share_prompts,
            gradient_checkpointing=bool(config.gradient_checkpointing),
            offload_activations=config.offload_activations,
            mlp_tile=config.mlp_tile,
            trust_remote_code=trust_remote_code,
            experts=config.experts,
        )
