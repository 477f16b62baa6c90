"""QLoRA (2305.14314): the frozen linear layers in NF4, 4 bits in blocks of 64 with a scale each, beside an adapter.

bitsandbytes computes with a layer's weight as bfloat16 or float32 numbers, which it makes of the 4 bits each time. The
embedding and the output layer stay as they are; under autocast normalisations are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reasoner.errors import UserError
from reasoner.learning.adapter import adaptable_layers


def quantized_loading(skeleton: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is to load a model with, so that its linear layers are NF4.

    Those beside which an adapter can be: every other one is read by something that does not call it, or shares its
    weight.

    Args:
        skeleton: the model without its numbers.
        dtype: of what is computed with.

    Raises:
        UserError: most of the model is in layers that bitsandbytes cannot quantise.
    """
    from transformers import BitsAndBytesConfig

    _refuse_other_layers(skeleton)
    quantized = adaptable_layers(skeleton)
    linear = [name for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[f"{name}$" for name in linear if name not in quantized],
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def prepare_quantized(model: Any, *, autocast: bool) -> None:
    """Settle how a model that was loaded so computes.

    Args:
        autocast: whether its forward pass runs under autocast, which leaves normalisations in float32.
    """
    for module in model.modules():
        if is_quantized(getattr(module, "weight", None)):
            # It would pack the weights for another kernel where no gradient is wanted, whose results are others.
            module.support_avx512bf16_for_cpu = False
        elif autocast and not isinstance(module, nn.Linear):
            for value in module.parameters(recurse=False):
                if value.ndim < 2:
                    value.data = value.data.float()


def is_quantized(weight: object) -> bool:
    """Whether a weight is of 4 bits, so that its numbers in memory are not those of its folder."""
    return isinstance(weight, Tensor) and getattr(weight, "quant_state", None) is not None


def _refuse_other_layers(skeleton: Any) -> None:
    """Raises UserError where matrices are in something that is no linear layer, such as experts in one tensor."""
    from transformers.pytorch_utils import Conv1D

    others: dict[str, str] = {}
    for name, module in skeleton.get_decoder().named_modules():
        convolution = isinstance(module, nn.modules.conv._ConvNd)
        for own, value in module.named_parameters(recurse=False):
            if (value.ndim > 2 and not convolution) or (isinstance(module, Conv1D) and value.ndim == 2):
                others.setdefault(type(module).__name__, f"{name}.{own}")
    if others:
        layers = ", ".join(f"{kind} ({name})" for kind, name in others.items())
        raise UserError(
            f"lora.quantization = 'nf4' is impossible for {type(skeleton).__name__}: bitsandbytes quantises linear "
            f"layers alone, and this model has weights in {layers}, which would stay as large as they are: leave it "
            "out, or train a model without such layers"
        )
