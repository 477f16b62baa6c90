"""A transformers model without its output layer: the hidden states of packed responses.

Policy and critic are built on it. Parameters are float32. With dtype bfloat16 the forward pass runs under autocast: the
parameters are their own float32 master copy, gradients add up in float32 (bfloat16 sums would depend on how a batch
was cut), and a new learner and its reference agree. DeepSpeed keeps the master copy itself, in shards: for it (and
for the reference beside it) the parameters are bfloat16 and there is no autocast.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig

from reasoner.distributed.sharding import GroupRows
from reasoner.errors import RunError, UserError
from reasoner.learning.adapter import adapted, add_adapter, load_adapter
from reasoner.learning.batching.inputs import ModelInputs, flat_inputs, padded_inputs
from reasoner.learning.batching.packing import (
    MicroBatch,
    PackedSequence,
    Sharing,
    extremes_of,
    longest_context,
    pack,
    pack_padded,
)
from reasoner.learning.batching.routes import flat_routes, padded_routes
from reasoner.learning.device import prepare_device, return_freed_blocks
from reasoner.learning.model.attention import IMPLEMENTATION, CannotPackError, described_kernel
from reasoner.learning.model.model_weights import Dtype, ModelWeights
from reasoner.learning.model.offloading import HiddenStatesOffload
from reasoner.learning.model.options import ModelOptions
from reasoner.learning.model.quantization import prepare_quantized, quantized_loading
from reasoner.learning.model.rotary import rotate_as_vllm, separate_sequences
from reasoner.learning.model.tiling import tile_mlps
from reasoner.learning.perturbing import Gather, perturbed
from reasoner.models.checkpoint_names import CheckpointNames
from reasoner.models.files import ModelFiles
from reasoner.models.loading import check_weights, load_model
from reasoner.models.model_config import attention_of
from reasoner.models.size import has_experts

ALLOWED_GAP: dict[Dtype, float] = {"float64": 1e-4, "float32": 1e-3, "bfloat16": 0.1}
"""mean difference per token between the packed and the plain forward pass on the first batch: absolute for
log-probabilities, relative for hidden states (float64 models of transformers still normalise in float32)"""
GROWTH = 1.5
"""A batch with a sequence this many times longer than any that was compared is compared again."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How sequences go through the model, and what keeps them from a faster way."""

    flat: bool
    """Whether sequences are packed one after the other without padding; False: one response per sequence, padded on the
    right."""
    sharing: Sharing
    token_budget: int
    why: str = ""
    """The reason why sequences are not packed, or prompts not shared; empty: there is none."""

    def micro_batches(self, groups: Sequence[GroupRows]) -> tuple[MicroBatch, ...]:
        """The groups in pieces of at most `token_budget` tokens."""
        if self.flat:
            return pack(groups, self.token_budget, self.sharing)
        return pack_padded(groups, self.token_budget)

    def __str__(self) -> str:
        if not self.flat:
            return f"one response per padded sequence ({self.why}), {self.token_budget} tokens per micro-batch"
        shared = {"auto": "shared where it pays", "always": "shared", "never": "not shared"}[self.sharing]
        why = f" ({self.why})" if self.why else ""
        return f"packed sequences, prompts {shared}{why}, {self.token_budget} tokens per micro-batch"


class Backbone:
    """A loaded model and how sequences go through it."""

    def __init__(self, folder: str | Path, options: ModelOptions, *, output_layer: bool = False) -> None:
        """Load the model.

        Args:
            folder: model in Hugging Face format.
            output_layer: load the whole language model, not only what gives its hidden states.

        Raises:
            UserError: this model cannot be packed although `packing` is `packed` or rows are shared, or its prompts not
                be shared although `share_prompts` is `always`.
        """
        self.device = torch.device(options.device)
        prepare_device(options.device)
        if self.device.type == "cpu" and (options.gradient_checkpointing or options.lora is not None):
            return_freed_blocks()
        # transformers imports DeepSpeed, where it is installed, to save a model; it would look for a GPU and complain.
        os.environ.setdefault("DS_ACCELERATOR", self.device.type)
        self.dtype = options.dtype
        self._autocast = options.autocast and options.dtype == "bfloat16"
        self._folder = Path(folder)
        self._compared: float = 0
        """tokens of the longest sequence whose packed and plain forward passes were compared"""
        self._experts_per_choice: NDArray[np.uint16] | None = None
        """as of `RoutingReplay`; None: experts are not replayed"""
        self._lora = options.lora
        self._offload = options.offload_activations
        names, files = self._load(options, output_layer=output_layer)
        # before DeepSpeed shards them
        self.weights = ModelWeights(self.model, names, files, options.dtype, options.lora, self._folder)
        self._by_length = separate_sequences(self.model)
        self._plain_attention = self.model.config._attn_implementation
        self.model.eval()
        self._sequence = options.sequence
        token_budget = options.token_budget * options.sequence.count
        self.packing = self._choose_packing(options, token_budget)
        if options.sequence.count > 1:
            self._check_sequence()
        if options.mlp_tile is not None:
            tile_mlps(self.model, options.mlp_tile, required=options.required)
        if options.gradient_checkpointing:
            _recompute(self.model)

    def _load(self, options: ModelOptions, *, output_layer: bool) -> tuple[CheckpointNames, ModelFiles]:
        """Load the weights into `model`, with the adapter; the names of its tensors, and its files for saving."""
        config = AutoConfig.from_pretrained(self._folder, trust_remote_code=options.trust_remote_code)
        _without_dropout(config)
        dtype, quantization = torch.float32 if self._autocast else getattr(torch, options.dtype), {}
        if options.lora is not None and options.lora.quantization:
            dtype = getattr(torch, options.dtype)
            skeleton = check_weights(self._folder, options.trust_remote_code, head=output_layer).model
            quantization = quantized_loading(skeleton, self.device, dtype)
        loaded = load_model(
            self._folder,
            device=self.device,
            dtype=dtype,
            trust_remote_code=options.trust_remote_code,
            head=output_layer,
            weights=None if options.lora else options.weights,
            config=config,
            attn_implementation=attention_of(config),
            **quantization,
        )
        self.model: Any = loaded.model
        if options.experts != "auto":
            self._choose_experts(options.experts, required=options.required)
        if quantization:
            prepare_quantized(self.model, autocast=self._autocast)
        if options.lora is not None:
            add_adapter(self.model, options.lora)
            if options.weights is not None:
                load_adapter(self.model, options.weights)
        head = None if output_layer else type(self.model).__name__
        return loaded.names, ModelFiles(self._folder, loaded.skeleton.generation, head)

    def _choose_experts(self, wanted: str, *, required: bool) -> None:
        """Have experts computed as it is asked for. Raises UserError where that is required and this model has none, or
        one way of its own."""
        if self.model._can_set_experts_implementation():
            self.model.set_experts_implementation(wanted)
        elif required and wanted != "eager":
            own = has_experts(name for name, _ in self.model.named_modules())
            why = "whose experts have an implementation of their own" if own else "which has no experts"
            raise UserError(
                f"learning.experts = {wanted!r} is impossible for {type(self.model).__name__}, {why}: set it to 'auto'"
            )

    @property
    def description(self) -> str:
        """Versions, device, number format, packing and adapter, for the log."""
        numbers = "bfloat16 over float32 parameters" if self._autocast else self.dtype
        adapter = f"; adapter next to {', '.join(adapted(self.model))}" if self._lora is not None else ""
        adapter += f" in {self._lora.quantization}" if self._lora is not None and self._lora.quantization else ""
        attention = f"; attention {described_kernel(self.device, self.dtype)}" if self.packing.flat else ""
        return f"torch {torch.__version__}, {self.device}, {numbers}; {self.packing}{attention}{adapter}"

    def rotate_as_vllm(self, max_model_len: int) -> None:
        """Rotate positions as the vLLM engine does that samples sequences of up to `max_model_len` tokens."""
        rotate_as_vllm(self.model, max_model_len)

    def inputs(self, batch: MicroBatch) -> ModelInputs:
        """A micro-batch as it goes through the model."""
        inputs = (flat_inputs if self.packing.flat else padded_inputs)(batch, self.device)
        if self._experts_per_choice is not None:
            routes_LW = (flat_routes if self.packing.flat else padded_routes)(batch, self._experts_per_choice)
            if routes_LW is not None:
                inputs = replace(inputs, routes_LW=torch.from_numpy(routes_LW).to(self.device))
        return inputs if self._sequence.count == 1 else inputs.cut(self._sequence.index, self._sequence.count)

    def gathered(self, outputs: Tensor, inputs: ModelInputs) -> Tensor:
        """(S, ...) outputs for all response tokens of a micro-batch, where `hidden` gave those of a slice."""
        if inputs.row_slice is None:
            return outputs
        return self._sequence.joined(outputs, inputs.row_slice.counts).index_select(0, inputs.row_slice.places_S)

    def hidden(self, inputs: ModelInputs) -> Tensor:
        """(S, H) states that predict a micro-batch's response tokens, in the order of its `rows`, with gradient.

        Of a slice of a row only those that the slice has (`gathered`).
        """
        extra: dict[str, Any] = {}
        if inputs.shapes is not None:
            extra = {"position_ids": inputs.position_ids_BL, "sequence_shapes": inputs.shapes}
            extra |= {"segments": inputs.segments} if inputs.segments is not None else {}
            extra |= {"sequence_ranks": self._sequence} if inputs.row_slice is not None else {}
        elif self._by_length:  # otherwise the padding would count as part of its sequence
            extra = {"position_ids": inputs.position_ids_BL}
        with self.autocast(), self._offloaded():
            output = _without_head(self.model)(input_ids=inputs.input_ids_BL, use_cache=False, **extra)
        hidden_SH: Tensor = output.last_hidden_state.flatten(0, 1).index_select(0, inputs.predictors_S)
        return hidden_SH

    def compare(
        self,
        groups: Sequence[GroupRows],
        what: str,
        gap: Callable[[MicroBatch], float],
        fetch: Callable[[Sequence[GroupRows]], Sequence[GroupRows]] = lambda groups: groups,
    ) -> None:
        """Compare packed responses with plain forward passes over one sequence each: the longest and the shortest.

        On the first batch, and again on a batch with a sequence that is much longer than those compared before: a
        window, or an embedding that changes with the length, shows there only.

        Args:
            groups: the batch; only its longest and its shortest sequence, and those beside them, are read; where ranks
                share rows, of the sequences that one of them can hold.
            what: what is compared, for the message.
            gap: mean difference per token between the packed and the plain forward passes of a micro-batch, without
                gradient.
            fetch: gives the groups that are compared their tokens, where other ranks have these.

        Raises:
            RunError: they differ by more than rounding.
        """
        if self._sequence.count > 1:
            groups = _of_one_rank(groups, self.packing.token_budget // self._sequence.count)
        longest = longest_context(groups)
        if longest <= GROWTH * self._compared:
            return
        sharing: Sharing = "never" if self.packing.sharing == "never" else "always"
        for batch in replace(self.packing, sharing=sharing).micro_batches(fetch(extremes_of(groups))):
            self._judge(gap(batch), what)
        self._compared = longest

    def _judge(self, difference: float, what: str) -> None:
        """Raises RunError for a gap that is more than rounding."""
        if not math.isfinite(difference):
            raise RunError(
                f"{type(self.model).__name__}: {what} are not finite numbers ({difference}) on the first batch: the "
                f"weights in {self._folder} are damaged, or too large for {self.dtype}"
            )
        if difference <= ALLOWED_GAP[self.dtype]:
            return
        instead = (
            "Until then, learning.packing = 'padded' may be right: it is compared in the same way"
            if self.packing.flat
            else "Until then, train another model"
        )
        raise RunError(
            f"{type(self.model).__name__}: {what} of {'packed' if self.packing.flat else 'padded'} responses differ "
            f"from those of single sequences by {difference:.2g} per token (allowed: {ALLOWED_GAP[self.dtype]:.0e}): "
            "training would be wrong. Its attention or output layer does something that the learner does not know: "
            f"please report the model. {instead}"
        )

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by the names of the model as it is in memory."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @contextmanager
    def perturbed(
        self, sizes: Mapping[str, float], gather: Gather = lambda parameters: nullcontext()
    ) -> Iterator[None]:
        """See `perturbing`. The comparison on the first batch waits for one that is trained on."""
        before, self._compared = self._compared, math.inf
        try:
            with perturbed(self.trained, sizes, gather):
                yield
        finally:
            self._compared = before

    def _choose_packing(self, options: ModelOptions, token_budget: int) -> Packing:
        """How sequences go through this model; it has the attention for that afterwards.

        Raises:
            UserError: what is required is impossible.
        """
        name, wanted, sharing = type(self.model).__name__, options.packing, options.share_prompts
        why = (
            "learning.packing = 'padded'"
            if wanted == "padded"
            else _packing_obstacle(self.model) or self._try_packing()
        )
        if why and wanted == "packed" and options.required:
            raise UserError(f"learning.packing = 'packed' is impossible for {name}: {why}; use 'auto'")
        reason = why or ("its rotary embedding depends on the length of a sequence" if self._by_length else "")
        if reason and sharing == "always" and options.required:
            raise UserError(f"learning.share_prompts = 'always' is impossible for {name}: {reason}; use 'auto'")
        return Packing(not why, "never" if reason else sharing, token_budget, reason)

    def _check_sequence(self) -> None:
        """Raises UserError where rows of this model cannot be shared by several ranks."""
        name = type(self.model).__name__
        if not self.packing.flat or self._by_length:
            raise UserError(
                f"learning.sequence_parallel = {self._sequence.count} is impossible for {name}: {self.packing.why}; "
                "set it to 1"
            )
        self._sequence.check_heads(name, self.model.config.get_text_config().num_attention_heads)

    def _try_packing(self) -> str:
        """Put a few tokens through the model in packed sequences; returns the reason why that fails, empty: it
        works."""
        sequences = PackedSequence((0, 0), ((0, 0),), (0,)), PackedSequence((0,), ((0,),), (1,))
        self.model.set_attn_implementation(IMPLEMENTATION)
        try:
            with torch.no_grad():
                self.hidden(flat_inputs(MicroBatch(sequences), self.device))
        except (CannotPackError, TypeError) as error:
            self.model.set_attn_implementation(self._plain_attention)
            return str(error)
        return ""

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """The model's own attention instead of the packed one."""
        if not self.packing.flat:
            yield
            return
        self.model.set_attn_implementation(self._plain_attention)
        try:
            yield
        finally:
            self.model.set_attn_implementation(IMPLEMENTATION)

    def _offloaded(self) -> AbstractContextManager[object]:
        """Hidden states that are saved meanwhile wait in host memory, where that is asked for."""
        if not self._offload:
            return nullcontext()
        size = self.model.config.get_text_config().hidden_size
        return HiddenStatesOffload(size, pin=self.device.type == "cuda")

    def autocast(self) -> torch.autocast:
        """The number format of the forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast)


def _of_one_rank(groups: Sequence[GroupRows], tokens: int) -> list[GroupRows]:
    """The groups whose sequences have at most so many tokens; the one with the shortest of them where none has."""
    lengths = [longest_context([group]) for group in groups]
    fitting = [group for group, length in zip(groups, lengths, strict=True) if length <= tokens]
    return fitting or [groups[lengths.index(min(lengths))]] if groups else []


def _without_dropout(config: Any) -> None:
    """Set every dropout to 0: log-probabilities must be a function of the weights.

    Noise of routers is another matter (`_recompute`): what is called jitter in Phi's experts is a threshold that their
    evaluation uses too.
    """
    for part in (config, config.get_text_config()):
        for name, value in part.to_dict().items():
            if isinstance(value, float) and any(
                word in name for word in ("dropout", "pdrop", "drop_path", "layerdrop")
            ):
                setattr(part, name, 0.0)


def _recompute(model: Any) -> None:
    """Have a model recompute its layers' activations, which transformers does in training mode only.

    The layers are in that mode, and not what is inside them, where routers would draw experts at random.
    """
    older = getattr(model, "gradient_checkpointing_enable", None)  # until transformers 5.23
    enable: Any = getattr(model, "activation_checkpointing_enable", older)
    enable({"use_reentrant": False})
    for module in model.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))


def _without_head(model: Any) -> Any:
    """The part of a model that computes its hidden states."""
    if model.base_model is model and model.get_output_embeddings() is not None:
        return model.model  # Llama 4's text model names another part of the whole as its base
    return model.base_model


def _packing_obstacle(model: Any) -> str:
    """The reason why this model's sequences cannot be packed; empty: there is none."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(model, "_is_stateful", False) or any("linear" in kind or "mamba" in kind for kind in kinds):
        return "recurrent layers"
    if kinds != {"full_attention"}:
        return f"layers of type {', '.join(sorted(kinds))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "sliding-window attention"
    if getattr(config, "attn_logit_softcapping", None):
        return "attention scores with a soft cap"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    return ""
