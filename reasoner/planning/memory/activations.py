"""What a forward and a backward pass hold: activations and logits."""

from __future__ import annotations

from reasoner.config import Config
from reasoner.learning.batching.logit_chunk import choose_logit_chunk
from reasoner.models.size import WIDTH, ModelSize
from reasoner.planning.memory.tokens import micro_batch_tokens, shares_prompts


def activation_bytes(config: Config, model: ModelSize, device: str = "cpu") -> float:
    """Of the largest micro-batch."""
    layer, stream = layer_bytes(config, model, device), _stream_width(config)
    passing = WIDTH[config.model.dtype] * (2 * model.hidden + 3 * model.intermediate) + 5 * stream * model.hidden
    layers = model.layers * layer
    if config.learning.gradient_checkpointing:  # also where it is not decided yet
        layers = model.layers * stream * model.hidden + layer
    return micro_batch_tokens(config) * (layers + passing)


def hole_bytes(config: Config, model: ModelSize) -> float:
    """What glibc's malloc keeps of an update with an adapter, beside what is in use, with recomputation or without:
    about as much as the activations of all layers. What is in use is as counted; an adapter's many small results lie
    between the large ones that are freed, and keep them from the system (docs/scaling.md has the measurement)."""
    return micro_batch_tokens(config) * model.layers * layer_bytes(config, model)


def layer_bytes(config: Config, model: ModelSize, device: str = "cpu") -> float:
    """What autograd keeps of a token in a layer.

    Of the 6 H of two normalisations, two each are their input, the normalised input, and the result. With bfloat16 the
    normalisation is in float32: under torch's autocast its input and normalised input stay so, and every linear layer
    has a bfloat16 copy of the result of its own; with DeepSpeed the normalised input is bfloat16 again. A frozen
    normalisation keeps no normalised input.
    """
    width, adapter = WIDTH[config.model.dtype], config.lora is not None
    if width == 4:
        normalised = 4.0 * (4 if adapter else 6)
    elif config.learner == "torch":
        normalised = 4.0 * (2 if adapter else 4) + 2 * 5
    else:
        normalised = 4.0 * 2 + 2 * (2 if adapter else 4)
    attention = 3 * model.queries + _key_values(config, model, device)
    return normalised * model.hidden + width * (attention + 4 * model.intermediate)


def _key_values(config: Config, model: ModelSize, device: str) -> float:
    """Keys and values that attention keeps per token. In float32 on a GPU they are as wide as queries; responses that
    share a row with their prompt have a copy of its keys and values each."""
    repeated = device == "cuda" and config.model.dtype == "float32"
    width = 2.0 * (model.queries if repeated else model.keys)
    prompt, response, size = (
        config.sampling.max_prompt_tokens,
        config.sampling.max_tokens,
        config.sampling.group_size,
    )
    if not shares_prompts(config):
        return width
    return width * (1 + size * (prompt + response) / (prompt + size * response))


def _stream_width(config: Config) -> int:
    """Bytes of a number between the layers: autocast leaves them float32."""
    return 4 if config.learner == "torch" else WIDTH[config.model.dtype]


def logit_bytes(config: Config, model: ModelSize, gpu_bytes: float = 0.0) -> float:
    """Two chunks of float32 logits, one more with entropies, and the gradient of the output layer."""
    chunk = choose_logit_chunk(config.learning.logit_chunk, gpu_bytes, max(1, model.vocabulary))
    copies = 8 + (2 if config.model.dtype == "bfloat16" else 0)
    copies += 4 if any(term.term.needs_entropy for term in config.gro.terms.values()) else 0
    gradient = 0 if config.lora is not None else 4
    if config.model.dtype == "bfloat16":
        gradient += 2  # the weight's cast under autocast; with DeepSpeed the gradient's
    return float(copies * chunk * model.vocabulary + gradient * model.embedding)
