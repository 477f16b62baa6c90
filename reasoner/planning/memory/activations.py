"""What a forward and a backward pass hold: activations and logits."""

from __future__ import annotations

from reasoner.config import Config
from reasoner.learning.batching.logit_chunk import choose_logit_chunk
from reasoner.models.size import WIDTH, ModelSize
from reasoner.planning.memory.tokens import micro_batch_tokens, shares_prompts


def activation_bytes(config: Config, model: ModelSize, device: str = "cpu") -> float:
    """Of the largest micro-batch: what autograd keeps, and what is on its way through one layer."""
    tokens, width = micro_batch_tokens(config), WIDTH[config.model.dtype]
    layer, stream = layer_bytes(config, model, device), _stream_width(config)
    layers = model.layers * layer
    if config.learning.gradient_checkpointing:  # also where it is not decided yet
        inputs = 1 if config.learning.offload_activations else model.layers
        layers = inputs * stream * model.hidden + layer
    passing = width * 2 * model.hidden + 5 * stream * model.hidden
    tile = config.learning.mlp_tile
    if tile is None or tile >= tokens or model.experts:
        return tokens * (layers + passing + width * 3 * model.mlp_width)
    inside = 7 * width * model.mlp_width  # a tile's values, and their gradients on their way
    return tokens * (layers + passing) + tile * inside + _tile_gradient_bytes(config, model)


def _tile_gradient_bytes(config: Config, model: ModelSize) -> float:
    """The gradient of an MLP's three weights, of the tile that is computed and of those before it."""
    if config.lora is not None:
        return 0.0
    return float(2 * WIDTH[config.model.dtype] * 3 * model.hidden * model.mlp_width)


def offloaded_bytes(config: Config, model: ModelSize) -> float:
    """Inputs of recomputed layers that wait in host memory."""
    if not config.learning.offload_activations:
        return 0.0
    return float(micro_batch_tokens(config) * model.layers * _stream_width(config) * model.hidden)


def layer_bytes(config: Config, model: ModelSize, device: str = "cpu") -> float:
    """What autograd keeps of a token in a layer.

    Of the 6 H of two normalisations, two each are their input, the normalised input, and the result. With bfloat16 the
    normalisation is in float32: under torch's autocast its input and normalised input stay so, and every linear layer
    has a bfloat16 copy of the result of its own; with DeepSpeed the normalised input is bfloat16 again. A frozen
    normalisation keeps no normalised input. Normalised queries and keys are kept before and after it.
    """
    width, adapter = WIDTH[config.model.dtype], config.lora is not None
    if width == 4:
        normalised = 4.0 * (4 if adapter else 6)
    elif config.learner == "torch":
        normalised = 4.0 * (2 if adapter else 4) + 2 * 5
    else:
        normalised = 4.0 * 2 + 2 * (2 if adapter else 4)
    attention = 3 * model.queries + _key_values(config, model, device)
    if model.query_norms:
        attention += (1 if adapter else 2) * (model.queries + model.keys)
    return normalised * model.hidden + width * (attention + _mlp_values(config, model))


def _mlp_values(config: Config, model: ModelSize) -> float:
    """Of a gated MLP 4 I a token: both halves, the gate's activation, the product. In tiles nothing but its input,
    which the normalisation has. Each of K experts has them for its own width, and its input and output beside that; the
    router a copy of its input, its logits and their softmax."""
    if model.experts:
        routed = (2 * model.experts_per_token + 1) * model.hidden + 2 * model.experts
        return 4 * model.mlp_width + routed
    tile = config.learning.mlp_tile
    return 0.0 if tile is not None and tile < micro_batch_tokens(config) else 4 * model.mlp_width


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
