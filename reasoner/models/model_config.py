"""What a model says of itself: its attention, its recurrent layers, its longest context, its routers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Router:
    """A module that chooses experts."""

    module: Any
    logits: int
    """The place of its logits in what it gives."""
    layer: int | None
    """The number of its layer; None: its name has none."""

    def choices(self, output: Any) -> Any:
        """(tokens, K) the experts that it chose, as a tensor, from what it gave; None: it does not say."""
        import torch

        choices = [part for part in output if isinstance(part, torch.Tensor) and not part.is_floating_point()]
        return choices[0] if len(choices) == 1 else None


def routers_of(model: Any) -> list[Router]:
    """The routers of a model of transformers, as it says where they are, in the order of the layers."""
    import torch

    places: dict[type, int] = {}
    for module in model.modules():
        recorder: Any = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits")
        if hasattr(recorder, "target_class") and recorder.target_class is not torch.nn.Linear:
            places[recorder.target_class] = recorder.index
    routers = []
    for name, module in model.named_modules():
        if type(module) in places:
            layer = re.search(r"\.layers\.(\d+)\.", f".{name}")
            routers.append(Router(module, places[type(module)], int(layer[1]) if layer else None))
    return routers
