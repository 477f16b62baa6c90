"""A causal language model that scores responses: the packed forward pass, without an optimiser.

The learner is one with an optimiser around it; the reference policy is one that stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from reasoner.distributed.sharding import GroupRows, rows_by_group
from reasoner.learning.batching.inputs import ModelInputs, ModelOutputs
from reasoner.learning.batching.logit_chunk import choose_logit_chunk
from reasoner.learning.batching.packing import MicroBatch, PackedSequence
from reasoner.learning.device import device_bytes
from reasoner.learning.model.backbone import Backbone, Packing
from reasoner.learning.model.logprobs import head_of, token_logprobs
from reasoner.learning.model.model_weights import Dtype
from reasoner.learning.model.options import ModelOptions
from reasoner.learning.model.replay import RoutingReplay
from reasoner.learning.model.routing import Routed, Routers, balance
from reasoner.records import Group

__all__ = ["Dtype", "ModelOptions", "Packing", "TorchPolicy"]

COMPARED_TOKENS = 64
"""last tokens of a response that the comparison with a plain forward pass reads: it holds their whole logits"""


class TorchPolicy(Backbone):
    """A transformers model and the log-probabilities that it gives to responses."""

    def __init__(self, folder: str | Path, options: ModelOptions) -> None:
        """Load the model in `folder`, in Hugging Face format.

        Raises:
            UserError: this model cannot be packed although `packing` is `packed` or rows are shared, or its prompts not
                be shared although `share_prompts` is `always`, or it has no linear output layer.
        """
        super().__init__(folder, options, output_layer=True)
        self._logit_chunk = options.logit_chunk
        self.head = head_of(self.model)
        self._routers: Routers | None = None
        self._replay: RoutingReplay | None = None

    @property
    def _chunk(self) -> int:
        """Asked anew, because DeepSpeed moves the model to its device later."""
        vocabulary = self.model.config.get_text_config().vocab_size
        return choose_logit_chunk(self._logit_chunk, device_bytes(self.device), vocabulary)

    @torch.no_grad()
    def freeze(self) -> None:
        """Nothing is trained any more: under autocast, keep the weights of linear layers in the bfloat16 in which they
        are multiplied. Not a bit of the log-probabilities changes, and each takes 2 bytes instead of 4.

        A layer keeps float32 where it may be multiplied in it: one that a short forward pass does not call, or calls
        without autocast; and the output layer, whose weight an embedding may be, which is looked up.
        """
        if not self._autocast:
            return
        kinds: dict[nn.Linear, set[bool]] = {}
        kind = self.device.type

        def note(layer: nn.Module, _: tuple[object, ...]) -> None:
            assert isinstance(layer, nn.Linear)
            kinds.setdefault(layer, set()).add(torch.is_autocast_enabled(kind))

        output = self.model.get_output_embeddings()
        layers = [layer for layer in self.model.modules() if type(layer) is nn.Linear and layer is not output]
        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        try:
            with self.own_attention(), self.autocast():
                self.model(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=self.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        for layer, enabled in kinds.items():
            if enabled == {True}:
                layer.to(torch.bfloat16)

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[Sequence[float]]:
        """(R)(T) log-probability of every response token, `log_softmax(logits / temperature)`, without gradient."""
        selected = rows_by_group(groups)
        self.check(selected, temperature)
        logprobs: dict[int, Sequence[float]] = {}
        for batch in self.packing.micro_batches(selected):
            inputs = self.inputs(batch)
            with torch.no_grad():
                logprobs_S, *_ = self.scores(inputs, temperature, False)
            logprobs |= inputs.by_row(batch, logprobs_S)
        return [logprobs[row] for row in range(len(logprobs))]

    def watch_routers(self) -> None:
        """Have `scores` say how evenly the routers spread each response over the experts.

        Raises:
            UserError: this model has no routers that can be watched.
        """
        self._routers = Routers(self.model)

    def replay_routes(self) -> None:
        """Have the experts chosen that the sampler chose, for responses that say them.

        Raises:
            UserError: this model has no routers that can be told what to choose.
        """

        def probe() -> None:
            with self.own_attention(), self.autocast():
                self.model(input_ids=torch.zeros((1, 3), dtype=torch.int64, device=self.device), use_cache=False)

        self._replay = RoutingReplay(self.model, probe)
        self._experts_per_choice = self._replay.experts_per_choice

    def scores(self, inputs: ModelInputs, temperature: float, entropy: bool) -> ModelOutputs:
        """(S,) log-probabilities of a micro-batch's response tokens, in the order of its `rows`, with gradient.

        With `entropy` also (S,) the entropy of the distribution that each token was sampled from, else None; where
        routers are watched and a gradient is wanted, (R,) the balance of each response (`routing`), else None; and (S,)
        how much replay changed, where the inputs have experts to replay, else None.
        """
        balance_R = rerouted_S = None
        if self._replay is not None:
            self._replay.begin(inputs.routes_LW)
        if self._routers is not None and torch.is_grad_enabled():
            with self._routers.recording() as routed:
                hidden_SH = self.hidden(inputs)
            balance_R = self._balance(routed, inputs)
        else:
            hidden_SH = self.hidden(inputs)
        if self._replay is not None and (rerouted_L := self._replay.end()) is not None:
            rerouted_S = self.gathered(rerouted_L.index_select(0, inputs.predictors_S), inputs)
        entropies_S = None
        with self.autocast():
            if entropy:
                logprobs_S, entropies_S = token_logprobs(
                    hidden_SH, inputs.targets_S, self.head, temperature, self._chunk, entropy=True
                )
            else:
                logprobs_S = token_logprobs(hidden_SH, inputs.targets_S, self.head, temperature, self._chunk)
        logprobs_S = self.gathered(logprobs_S, inputs)
        entropies_S = None if entropies_S is None else self.gathered(entropies_S, inputs)
        return logprobs_S, entropies_S, balance_R, rerouted_S

    def _balance(self, routed: Sequence[Routed], inputs: ModelInputs) -> Tensor:
        """(R,) mean over the layers."""
        layers = []
        for logits, choices in routed:
            logits_SE, choices_SK = (
                self.gathered(part.index_select(0, inputs.predictors_S), inputs) for part in (logits, choices)
            )
            layers.append(balance(logits_SE, choices_SK, inputs.lengths_R))
        return torch.stack(layers).mean(0)

    def check(
        self,
        groups: Sequence[GroupRows],
        temperature: float,
        fetch: Callable[[Sequence[GroupRows]], Sequence[GroupRows]] = lambda groups: groups,
    ) -> None:
        """Compare packed responses with plain forward passes over one sequence each, on the first batch (`compare`).

        Args:
            fetch: as in `compare`.

        Raises:
            RunError: they differ by more than rounding.
        """
        self.compare(groups, "log-probabilities", lambda batch: self._gap(batch, temperature), fetch)

    @torch.no_grad()
    def _gap(self, batch: MicroBatch, temperature: float) -> float:
        """Mean absolute difference per token, over the last tokens of each response."""
        inputs = replace(self.inputs(batch), routes_LW=None)
        packed_S, *_ = self.scores(inputs, temperature, False)
        packed_S = torch.cat([part[-COMPARED_TOKENS:] for part in inputs.parts(packed_S)])
        with self.own_attention():
            parts = [(sequence, response) for sequence in batch.sequences for response in sequence.responses]
            plain_S = torch.cat([self._plain(sequence, response, temperature) for sequence, response in parts])
        return float((packed_S - plain_S).abs().mean())

    def _plain(self, sequence: PackedSequence, response: Sequence[int], temperature: float) -> Tensor:
        """(T,) of the last tokens, by the model's own forward pass with its own output layer."""
        ids = torch.tensor([[*sequence.prompt_ids, *response[:-1]]], device=self.device)
        targets = response[-COMPARED_TOKENS:]

        def only_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return inputs[0][:, -len(targets) :], *inputs[1:]

        hook = self.model.get_output_embeddings().register_forward_pre_hook(only_last)
        try:
            with self.autocast():
                logits = self.model(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        wide = torch.float64 if self.dtype == "float64" else torch.float32
        logprobs = torch.log_softmax(logits[0].to(wide) / temperature, dim=-1)
        return logprobs.gather(1, torch.tensor([*targets], device=self.device).unsqueeze(1)).squeeze(1)
