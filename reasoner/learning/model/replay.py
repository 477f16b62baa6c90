"""Routing replay: the experts that the sampler chose are used again (R3, 2510.11370).

A router computes scores, and the K best experts of each token with their weights. Here it gets K experts that are given
and computes their weights from its own scores of now, by the code of its family: only what `topk` returns is exchanged.
So the gradient reaches the router through the weights, and not a bit changes where it would have chosen the same.

Legend: L tokens of the input, M layers, E experts of a layer, K choices of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reasoner.errors import UserError
from reasoner.models.model_config import Router, routers_of


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
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self._routes_LMK: Tensor | None = None
        self._differing: list[Tensor] | None = None
        self._calls: list[tuple[int, int] | None] = [None] * len(self._routers)
        """of each router, which of its calls of `topk` chooses, and K"""
        for number, router in enumerate(self._routers):
            router.module.forward = partial(self._forward, number, router, router.module.forward)
        with torch.no_grad():
            probe()
        unknown = [router for router, call in zip(self._routers, self._calls, strict=True) if not call]
        if unknown or any(router.layer is None for router in self._routers):
            module = type((unknown or self._routers)[0].module).__name__
            raise self._impossible(f"{module} does not take the best of its scores as other routers do")
        self.choices = max(call[1] for call in self._calls if call)

    @property
    def width(self) -> int:
        """Numbers that say the experts of a token: those of layers without experts are 0."""
        return self.layers * self.choices

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
            self._calls[number] = watch.place_of(router.choices(output))
            return output
        if self._routes_LMK is None:
            return forward(*args, **options)
        routes_LK = self._routes_LMK[:, router.layer, : call[1]].long()
        with _Replace(call[0], routes_LK) as replaced:
            output = forward(*args, **options)
        if self._differing is not None:
            self._differing.append(replaced.differing_L)
        return output

    def _impossible(self, why: str) -> UserError:
        return UserError(f"learning.routing_replay is impossible for {self._name}: {why}. Set it to false")


class _Watch(TorchFunctionMode):
    """Notes what `topk` returns."""

    def __init__(self) -> None:
        super().__init__()
        self._indices: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "topk":
            self._indices.append(result.indices)
        return result

    def place_of(self, choices: Tensor | None) -> tuple[int, int] | None:
        """Which call gave these choices, and K; None: none did."""
        if choices is None or choices.dim() != 2:
            return None
        places = [place for place, indices in enumerate(self._indices) if torch.equal(indices, choices)]
        return (places[-1], choices.shape[1]) if places else None


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
        scores_LE = args[0] if args else (kwargs or {})["input"]
        chosen_LK = torch.where(self._routes_LK < 0, result.indices, self._routes_LK)
        self.differing_L = (chosen_LK.sort(1).values != result.indices.sort(1).values).any(1)
        return torch.return_types.topk((scores_LE.gather(1, chosen_LK), chosen_LK))
