"""What a model's configuration says: its attention, its recurrent layers, its longest context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoner.io.parsing import read_model_json, table_of


def read_config(folder: Path, trust_remote_code: bool) -> Any:
    """The configuration of the model in `folder`, as transformers has it."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def attention_of(config: Any) -> str | None:
    """The attention that learner and sampler load a model with; None: transformers' choice. A soft cap of the scores
    needs `eager`: sdpa leaves it out without a word."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def has_recurrent_layers(config: Any) -> bool:
    """Whether layers of the model (configuration of transformers) carry a state from token to token, as recurrent and
    convolutional ones do: what stands before a sequence is in it, padding too, and it cannot be cut to a prefix."""
    from transformers import DynamicCache

    return any(hasattr(layer, "conv_states") for layer in DynamicCache(config=config.get_text_config()).layers)


def context_of(folder: Path) -> int | None:
    """Tokens that the model in `folder` takes; None: its configuration does not say, or stretches them by a factor."""
    return context_in(read_model_json(folder / "config.json"))


def context_in(config: Mapping[str, Any]) -> int | None:
    """As `context_of`, of a configuration that was read."""
    scaling = table_of(config, "rope_scaling") or table_of(config, "rope_parameters")
    longest = config.get("max_position_embeddings")
    return longest if isinstance(longest, int) and "factor" not in scaling else None
