"""A causal language model that scores responses: the packed forward pass, without an optimiser.

The learner is one with an optimiser around it; the reference policy is one that stays as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reasoner.config import LoraConfig
from reasoner.learning.backbone import Backbone, Dtype, Packing
from reasoner.learning.inputs import Inputs
from reasoner.learning.logprobs import head_of, token_logprobs
from reasoner.learning.packing import MicroBatch, Row, Sharing
from reasoner.records import Group

__all__ = ["Dtype", "Packing", "TorchPolicy"]


class TorchPolicy(Backbone):
    """A transformers model and the log-probabilities that it gives to responses."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str,
        dtype: Dtype,
        token_budget: int,
        logit_chunk: int,
        share_prompts: Sharing = "auto",
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        autocast: bool = True,
        weights: Path | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Load the model.

        Args:
            folder: model in Hugging Face format.
            device: a torch device, `cpu` or `cuda`.
            dtype: number format of the forward pass; float64 is for tests.
            token_budget: tokens per micro-batch.
            logit_chunk: response positions whose logits are in memory at once.
            share_prompts: whether a group's prompt is in a row once.
            gradient_checkpointing: recompute activations in the backward pass.
            trust_remote_code: run Python code that comes with the model.
            autocast: with bfloat16, keep float32 parameters; otherwise the parameters are bfloat16 too.
            weights: take the weights, or those of the adapter, from this folder, as `keep` wrote it.
            lora: freeze the model and put an adapter into it; None: without.

        Raises:
            UserError: prompts cannot be shared in this model although `share_prompts` is `always`, or it has no linear
                output layer.
        """
        super().__init__(
            folder,
            device=device,
            dtype=dtype,
            token_budget=token_budget,
            share_prompts=share_prompts,
            gradient_checkpointing=gradient_checkpointing,
            trust_remote_code=trust_remote_code,
            output_layer=True,
            autocast=autocast,
            weights=weights,
            lora=lora,
        )
        self._chunk = logit_chunk
        self.head = head_of(self.model)

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        """(R)(T) log-probability of every response token, `log_softmax(logits / temperature)`, without gradient."""
        self.check(groups, temperature)
        found: list[list[float]] = [[] for group in groups for _ in group.responses]
        for batch in self.packing.micro_batches(groups):
            inputs = self.inputs(batch)
            with torch.no_grad():
                logprobs_S, _ = self.scores(inputs, temperature, False)
            for index, part in zip(batch.indices, inputs.parts(logprobs_S), strict=True):
                found[index] = part.tolist()
        return found

    def scores(self, inputs: Inputs, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """(S,) log-probabilities of a micro-batch's response tokens, in the order of its `indices`, with gradient.

        With `entropy` also (S,) the entropy of the distribution that each token was drawn from, else None.
        """
        hidden_SH = self.hidden(inputs)
        with self.autocast():
            if entropy:
                return token_logprobs(hidden_SH, inputs.targets_S, self.head, temperature, self._chunk, entropy=True)
            return token_logprobs(hidden_SH, inputs.targets_S, self.head, temperature, self._chunk), None

    def check(self, groups: Sequence[Group], temperature: float) -> None:
        """On the first batch: compare a few packed responses with plain forward passes over one sequence each.

        Raises:
            RunError: they differ by more than rounding.
        """
        self.compare_once(groups, "log-probabilities", lambda rows: self._gap(rows, temperature))

    @torch.no_grad()
    def _gap(self, rows: Sequence[Row], temperature: float) -> float:
        """Mean absolute difference per token."""
        packed_S, _ = self.scores(self.inputs(MicroBatch(tuple(rows))), temperature, False)
        with self.own_attention():
            plain_S = torch.cat([self._plain(row, response, temperature) for row in rows for response in row.responses])
        return float((packed_S - plain_S).abs().mean())

    def _plain(self, row: Row, response: tuple[int, ...], temperature: float) -> Tensor:
        """(T,) by the model's own forward pass with its own output layer."""
        ids = torch.tensor([[*row.prompt_ids, *response]], device=self.device)
        keep = len(response) + 1
        known = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        with self.autocast():
            logits = self.model(input_ids=ids, use_cache=False, **({"logits_to_keep": keep} if known else {})).logits
        wide = torch.float64 if self.dtype == "float64" else torch.float32
        logprobs = torch.log_softmax(logits[0, -keep:-1].to(wide) / temperature, dim=-1)
        return logprobs.gather(1, torch.tensor(response, device=self.device).unsqueeze(1)).squeeze(1)
