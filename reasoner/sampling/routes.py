"""Which experts the transformers sampler chose as it read tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reasoner.errors import SamplerError
from reasoner.models.model_config import Router, routers_of

UNKNOWN_CHOICES = "its routers do not say which experts they choose"


class RouteRecorder:
    """The choices of all routers of a model, of its last forward pass.

    Raises:
        SamplerError: it has no routers that say what they choose.
    """

    def __init__(self, model: Any) -> None:
        self._name = type(model).__name__
        self._layers: int = model.config.get_text_config().num_hidden_layers
        self._chosen: dict[int, Tensor] = {}
        routers = routers_of(model)
        if not routers:
            raise self._impossible(UNKNOWN_CHOICES)
        if any(router.layer is None for router in routers):
            raise self._impossible("the name of a router does not say of which layer it is")
        for router in routers:
            router.module.register_forward_hook(partial(self._record, router))

    def take(self, rows: int, positions: int) -> NDArray[np.uint16]:
        """(rows, positions, layers x K) of what was read since the last call; 0 in layers without experts."""
        chosen, self._chosen = self._chosen, {}
        choices = next(iter(chosen.values())).shape[-1]
        routes = torch.zeros(rows * positions, self._layers, choices, dtype=torch.int64)
        for layer, chosen_NK in chosen.items():
            routes[:, layer] = chosen_NK.cpu()
        return routes.view(rows, positions, -1).numpy().astype(np.uint16)

    def _record(self, router: Router, module: Any, inputs: Any, output: Any) -> None:
        chosen = router.choices(output)
        if chosen is None:
            raise self._impossible(UNKNOWN_CHOICES)
        assert router.layer is not None
        self._chosen[router.layer] = chosen

    def _impossible(self, why: str) -> SamplerError:
        return SamplerError(f"learning.routing_replay is impossible for {self._name}: {why}. Set it to false")
