"""Weights of fewer bits than the model's: those that the learner keeps frozen, and a sampler's."""

from __future__ import annotations

from reasoner.config import Config
from reasoner.models.size import WIDTH, ModelSize

NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""bytes of a number: 4 bits, for 64 of them a scale of 8 bits, and for 256 scales one of 32"""
FP8 = 1.0
"""bytes of a number; a layer has one scale"""


def linear_numbers(model: ModelSize) -> int:
    """The weights of linear layers inside of a model: not the embedding, not the output layer, no experts."""
    if not model.matrices:
        return max(0, model.parameters - model.embedding * (1 if model.tied else 2))
    return sum(
        rows * columns for name, rows, columns in model.matrices if ".experts." not in name and rows != model.vocabulary
    )


def quantized_bytes(config: Config, model: ModelSize, number: float) -> float:
    """Of a model whose linear layers take so many bytes a weight, and the rest those of `model.dtype`."""
    linear = linear_numbers(model)
    return number * linear + WIDTH[config.model.dtype] * (model.parameters - linear)


def dequantized_bytes(config: Config, model: ModelSize) -> float:
    """Of the numbers that the largest linear layer is multiplied as, in the forward or the backward pass."""
    return WIDTH[config.model.dtype] * max(
        (rows * columns for _, rows, columns in model.matrices if rows != model.vocabulary),
        default=model.hidden * model.intermediate,
    )
