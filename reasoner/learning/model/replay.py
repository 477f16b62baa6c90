"""Routing replay: the experts that the sampler chose are used again (R3, 2510.11370).

A router computes scores, and the K best experts of each token with their weights. Here it gets K experts that are given
and computes their weights from its own scores of now, by the code of its family: only what `topk` returns is exchanged.
So the gradient reaches the router through the weights, and not a bit changes where it would have chosen the same, in
whatever order they are given.

Legend: L tokens of the input, M layers, E experts of a layer, K choices of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reasoner.errors import UserError
from reasoner.models.model_config import Router, routers_of
from reasoner.records import UNKNOWN_EXPERT


class RoutingReplay:
    """The routers of a model, and what they are told to choose."""

    def __init__(self, model: Any, probe: Callable[[], object]) -> None:
        """Find out where each router chooses.

        Args:
            probe: puts a few tokens through the model.

        Raises:
            UserError: there are no routers, or they choose in another way.
        """
        self._routers = routers_of(model)
        self._name = type(model).__name__
        if not self._routers:
            raise self._impossible("transformers names no routers of it")
        if any(router.layer is None for router in self._routers):
            raise self._impossible("the name of a router does not say of which layer it is")
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self._routes_LMK: Tensor | None = None
        self._differing: list[Tensor] | None = None
        self._calls: list[_Call | None] = [None] * len(self._routers)
        for number, router in enumerate(self._routers):
            router.module.forward = partial(self._forward, number, router, router.module.forward)
        with torch.no_grad():
            probe()
        unknown = [router for router, call in zip(self._routers, self._calls, strict=True) if not call]
        if unknown:
            module = type(unknown[0].module).__name__
            raise self._impossible(f"{module} does not take the best of its scores as other routers do")
        self.choices = max(call.choices for call in self._calls if call)

    @property
    def experts_per_choice(self) -> NDArray[np.uint16]:
        """(M x K,) for each number that says an expert of a token, how many experts there are; what is not read, as of
        layers without experts, can be any number."""
        experts_MK = np.full((self.layers, self.choices), UNKNOWN_EXPERT, np.uint16)
        for router, call in zip(self._routers, self._calls, strict=True):
            assert call is not None
            experts_MK[router.layer, : call.choices] = call.experts
        return experts_MK.ravel()

    def begin(self, routes_LW: Tensor | None) -> None:
        """What the next forward pass replays, and what a backward pass that recomputes it does.

        Args:
            routes_LW: (L, M x K) the experts of every token, -1 where they are not known and the router chooses; None:
                it chooses everywhere.
        """
        self._routes_LMK = None if routes_LW is None else routes_LW.view(-1, self.layers, self.choices)
        self._differing = None if routes_LW is None else []

    def end(self) -> Tensor | None:
        """(L,) the share of the layers in which a token's router would have chosen others, -1 where it did choose;
        None: nothing was replayed."""
        differing, self._differing = self._differing, None
        if differing is None:
            return None
        assert self._routes_LMK is not None
        return torch.where(self._known(), torch.stack(differing).float().mean(0), -1.0)

    def _known(self) -> Tensor:
        assert self._routes_LMK is not None
        layer = self._routers[0].layer
        return self._routes_LMK[:, layer, 0] >= 0

    def _forward(self, number: int, router: Router, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
        call = self._calls[number]
        if call is None:
            with _Watch() as watch:
                output = forward(*args, **options)
            self._calls[number] = watch.call_of(router.choices(output))
            return output
        if self._routes_LMK is None:
            return forward(*args, **options)
        routes_LK = self._routes_LMK[:, router.layer, : call.choices].long()
        with _Replace(call.place, routes_LK) as replaced:
            output = forward(*args, **options)
        if self._differing is not None:
            self._differing.append(replaced.differing_L)
        return output

    def _impossible(self, why: str) -> UserError:
        return UserError(f"learning.routing_replay is impossible for {self._name}: {why}. Set it to false")


@dataclass(frozen=True, slots=True)
class _Call:
    """The call of `topk` by which a router chooses."""

    place: int
    """among the calls of a forward pass"""
    choices: int
    experts: int
    """from which it chooses"""


class _Watch(TorchFunctionMode):
    """Notes what `topk` returns."""

    def __init__(self) -> None:
        super().__init__()
        self._results: list[tuple[Tensor, int]] = []
        """the indices that it gave, and how many there were to choose from"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "topk":
            self._results.append((result.indices, _scores(args, kwargs).shape[-1]))
        return result

    def call_of(self, choices: Tensor | None) -> _Call | None:
        """The call that gave these choices; None: none did."""
        if choices is None or choices.dim() != 2:
            return None
        calls = [
            _Call(place, choices.shape[1], experts)
            for place, (indices, experts) in enumerate(self._results)
            if torch.equal(indices, choices)
        ]
        return calls[-1] if calls else None


class _Replace(TorchFunctionMode):
    """Has one call of `topk` choose what is given, where that is not negative."""

    def __init__(self, place: int, routes_LK: Tensor) -> None:
        super().__init__()
        self._left, self._routes_LK = place, routes_LK
        self.differing_L = torch.empty(0)
        """tokens for which it would have chosen others, whatever their order"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "topk":
            return result
        self._left -= 1
        if self._left != -1:
            return result
        chosen_LK = torch.where(self._routes_LK < 0, result.indices, self._routes_LK)
        self.differing_L = (chosen_LK.sort(1).values != result.indices.sort(1).values).any(1)
        # in the router's own order where they are the same: in another, sums over experts would be rounded otherwise
        chosen_LK = torch.where(self.differing_L[:, None], chosen_LK, result.indices)
        return torch.return_types.topk((_scores(args, kwargs).gather(1, chosen_LK), chosen_LK))


def _scores(args: Any, kwargs: Any) -> Tensor:
    """Of which `topk` takes the best."""
    scores: Tensor = args[0] if args else kwargs["input"]
    return scores
