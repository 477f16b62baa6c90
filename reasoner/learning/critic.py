"""The critic: a value model with a backbone and an optimiser of its own.

    V[i,t] = head(h[i,t])        h: the hidden state that predicts token t of response i

so V[i,t] is the value of the state before that token: it sees the prompt and the tokens before t. Like the learner it
is algorithm-blind: it adds the gradient of `- sum w * V` for the weights that it is given (of a squared error
(V - R)^2 / 2 they are w = R - V), and normalises nothing. The head starts at zero, and so do the values. Values are
float32 (float64 for float64 models), the head included, also where the backbone runs in bfloat16.

With several ranks each has a whole copy: it puts its share of the groups through, the gradient is summed over ranks,
and all make the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.distributed.sharding import GroupRows, Selection, rows_by_group, sharded_outputs, with_tokens
from reasoner.errors import UserError
from reasoner.learning.batching.inputs import ModelInputs
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.learning.batching.weighing import WeightedLoss, weigh_batch
from reasoner.learning.learner import Accumulated, StepResult, WeightFunction
from reasoner.learning.model.backbone import Backbone
from reasoner.learning.model.model_weights import Dtype
from reasoner.learning.model.options import ModelOptions
from reasoner.learning.optimizer import TRAINED, Optimizer, trained_weights
from reasoner.learning.sequence_parallel import SequenceRanks
from reasoner.models.tensor_files import io_errors
from reasoner.records import Group, Response

HEAD_FILE = "value_head.safetensors"


class TorchCritic:
    """A value model and its optimiser."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str,
        dtype: Dtype,
        config: LearningConfig,
        learning_rate: float,
        total_steps: int,
        ranks: Ranks = ALONE,
        trust_remote_code: bool = False,
        checkpoint: Path | None = None,
    ) -> None:
        """Load the backbone, and the value head where there is one.

        Args:
            folder: a saved critic, or any model with its tokenizer in Hugging Face format: its output layer is left
                out and the value head is zero.
            device: a torch device, `cpu` or `cuda`.
            dtype: number format of the forward pass and of the backbone that is saved.
            config: `[learning]`, except for its learning rate.
            learning_rate: after the warm-up.
            total_steps: optimiser steps of the whole run, for the decay of the learning rate.
            ranks: all that train together, with the same batches.
            trust_remote_code: run Python code that comes with the model.
            checkpoint: folder in which `checkpoint` wrote; the critic resumes from it.

        Raises:
            UserError: the saved value head belongs to another model.
        """
        options = ModelOptions.of(config, device, dtype, trust_remote_code=trust_remote_code)
        options = replace(
            options, weights=trained_weights(checkpoint), required=False, sequence=SequenceRanks.of(ranks)
        )
        self.backbone = Backbone(folder, options)
        model = self.backbone.model
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device, dtype=model.dtype)
        _fill(self.head, (trained_weights(checkpoint) or Path(folder)) / HEAD_FILE)
        self._checkpointing = bool(config.gradient_checkpointing)
        self._ranks = ranks
        parameters = chain(model.named_parameters(), self.head.named_parameters("value_head"))
        self._optimizer = Optimizer(parameters, config, peak=learning_rate, total_steps=total_steps)
        if checkpoint is not None:
            self._optimizer.load(checkpoint)

    @property
    def description(self) -> str:
        """Device, number format, packing and optimiser, for the log."""
        recompute = ", activations recomputed" if self._checkpointing else ""
        copies = f", a copy on each of {self._ranks.count} ranks" if self._ranks.count > 1 else ""
        return f"{self.backbone.description}; value head; {self._optimizer.name}{recompute}{copies}"

    @property
    def version(self) -> int:
        """Optimiser steps behind the current weights."""
        return self._optimizer.version

    def values(self, groups: Sequence[Group]) -> list[Sequence[float]]:
        """(R)(T) value of the state before every response token, without gradient."""
        self._check(rows_by_group(groups), groups)
        return sharded_outputs(groups, self._ranks, self._values)

    @torch.no_grad()
    def _values(self, groups: Sequence[GroupRows]) -> dict[int, Sequence[float]]:
        """Values of some responses, by row."""
        values: dict[int, Sequence[float]] = {}
        for batch in self.backbone.packing.micro_batches(groups):
            values_S, inputs = self._forward(batch)
            values |= inputs.by_row(batch, values_S)
        return values

    def accumulate(
        self, groups: Sequence[Group], weights: WeightFunction, *, selection: Selection | None = None
    ) -> Accumulated:
        """Add the gradient of `- sum w * V` over the responses selected, in packed micro-batches.

        Args:
            groups: all groups of the batch.
            weights: gives w of a micro-batch.
            selection: which of the batch's R responses go through the model, and on which rank; None: all of them.
        """
        selection = selection or Selection.of(groups, ranks=self._ranks)
        selection.check(self._ranks)
        self._check(selection.parts, groups)
        batches = self.backbone.packing.micro_batches(with_tokens(selection.share, groups, self._ranks))
        responses = [response for group in groups for response in group.responses]
        weighed = [self._accumulate_one(batch, responses, weights) for batch in batches]
        first, *others = self._ranks.gather_shares(Accumulated.of(batches, weighed))
        return sum(others, first)

    def _accumulate_one(
        self, batch: MicroBatch, responses: Sequence[Response], weights: WeightFunction
    ) -> WeightedLoss:
        """Forward, weigh, and backward unless every weight is 0; nothing of it lives on during the next forward."""
        values_S, inputs = self._forward(batch)
        weighed = weigh_batch(batch, responses, inputs, (values_S, None, None, None), weights)
        if weighed.nonzero:
            self._optimizer.backward(weighed.loss)
        return weighed.detached()

    def step(self) -> StepResult:
        """Clip, update, zero the gradient; a loss or gradient that is not finite is dropped and reported."""
        self._optimizer.sum_over(self._ranks)
        return self._optimizer.step()

    def save(self, folder: Path, *, exact: bool = False) -> None:
        """Write the backbone in Hugging Face format and the value head next to it; a critic loads from the folder.

        Args:
            exact: in the number format of the training, not of the forward pass.
        """
        self.backbone.weights.save(folder, exact=exact)
        with io_errors():
            save_file(
                {name: value.detach().cpu() for name, value in self.head.state_dict().items()}, folder / HEAD_FILE
            )

    def checkpoint(self, folder: Path) -> None:
        """Write everything that a critic needs to resume exactly."""
        self._optimizer.save(folder)
        if self.version:
            self.save(folder / TRAINED, exact=True)

    def _forward(self, batch: MicroBatch) -> tuple[Tensor, ModelInputs]:
        """(S,) values of a micro-batch's response tokens, in the order of its `rows`, with gradient."""
        inputs = self.backbone.inputs(batch)
        values_S1: Tensor = self.head(self.backbone.hidden(inputs).to(self.head.weight.dtype))
        return self.backbone.gathered(values_S1.squeeze(1), inputs), inputs

    def _check(self, selected: Sequence[GroupRows], groups: Sequence[Group]) -> None:
        """Of hidden states, because a new head makes every value 0."""
        fetch = partial(with_tokens, groups=groups, ranks=self._ranks)
        self.backbone.compare(selected, "hidden states", self._gap, fetch)

    @torch.no_grad()
    def _gap(self, batch: MicroBatch) -> float:
        """Mean over tokens of |packed - plain| / |plain|, Euclidean norms of hidden states."""
        inputs = self.backbone.inputs(batch)
        packed_SH = self.backbone.gathered(self.backbone.hidden(inputs), inputs)
        with self.backbone.own_attention():
            plain_SH = torch.cat(
                [self._plain(sequence, response) for sequence in batch.sequences for response in sequence.responses]
            )
        return float(((packed_SH - plain_SH).norm(dim=1) / plain_SH.norm(dim=1)).mean())

    def _plain(self, sequence: PackedSequence, response: Sequence[int]) -> Tensor:
        """(T, H) by the model's own forward pass."""
        ids = torch.tensor([[*sequence.prompt_ids, *response[:-1]]], device=self.backbone.device)
        with self.backbone.autocast():
            hidden_BLH: Tensor = self.backbone.model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden_BLH[0, len(sequence.prompt_ids) - 1 :]


def _fill(head: nn.Linear, file: Path) -> None:
    """The saved value head, or zeros where there is none."""
    if not file.exists():
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return
    saved = load_file(file)
    expected = {name: list(value.shape) for name, value in head.state_dict().items()}
    actual = {name: list(value.shape) for name, value in saved.items()}
    if actual != expected:
        raise UserError(
            f"{file} is not the value head of the model next to it: it holds {actual}, the model needs {expected}; use "
            "a folder as a critic saved it, or remove the file to start with values of 0"
        )
    head.load_state_dict(saved)
