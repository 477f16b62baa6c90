"""Routers of mixture-of-experts models, and how evenly they spread the tokens of each response.

    balance[i] = mean over layers m of  E * sum_e f[i,m,e] * P[i,m,e]

with E experts, f[i,m,e] the share of the choices at the tokens of response i that fell on expert e, and P[i,m,e] the
mean of its probability, softmax of the router's logits (also where a router chooses by sigmoids). It is 1 where both
are even, and E where one expert gets all. The gradient goes through P: f counts. This is the balance loss of Switch
Transformers (2101.03961) taken for every response by itself, as DeepSeek-V3 does for every sequence (2412.19437): a sum
over responses does not depend on how a batch is cut, and what a whole batch chose does not have to be known.

Legend: S response tokens of the micro-batch, R its responses, E experts, K choices per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from reasoner.errors import UserError
from reasoner.models.model_config import Router, routers_of

Routed = tuple[Tensor, Tensor]
"""A router's logits (tokens, E) and choices (tokens, K)."""


class Routers:
    """The routers of a model, by what they gave in a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        """Find them, as transformers says where they are.

        Raises:
            UserError: there are none, or they give no logits and choices.
        """
        self._record_to: list[Routed] | None = None
        routers = routers_of(model)
        if not routers:
            raise UserError(
                f"learning.router_loss is for models with experts whose routers transformers names, and "
                f"{type(model).__name__} has none; set it to 0"
            )
        self.count = len(routers)
        for router in routers:
            router.module.register_forward_hook(partial(self._record, router))

    @contextmanager
    def recording(self) -> Iterator[list[Routed]]:
        """What every router gives meanwhile, in the order of the layers; not what a backward pass computes again."""
        self._record_to = []
        try:
            yield self._record_to
        finally:
            self._record_to = None

    def _record(self, router: Router, module: nn.Module, _: Any, output: Any) -> None:
        if self._record_to is None:
            return
        choices = router.choices(output)
        if choices is None:
            raise UserError(
                f"learning.router_loss is impossible for this model: {type(module).__name__} does not say which "
                "experts it chose; set it to 0"
            )
        self._record_to.append((output[router.logits], choices))


def balance(logits_SE: Tensor, choices_SK: Tensor, lengths: Sequence[int]) -> Tensor:
    """(R,) how evenly one layer spreads each response: E * sum_e f_e * P_e.

    Two experts, one choice. The first response has one token for each, evenly likely; the second's go to one expert,
    which has three quarters of the probability: 2 * (1 * 0.75 + 0 * 0.25).

    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0986, 0.0], [1.0986, 0.0]])
    >>> balance(logits, torch.tensor([[0], [1], [0], [0]]), (2, 2))
    tensor([1.0000, 1.5000])

    Args:
        logits_SE: of the router, at the position that predicts each response token.
        choices_SK: the experts that it chose there.
        lengths: tokens of each response; S is their sum.
    """
    experts = logits_SE.shape[1]
    sizes = torch.tensor(lengths, device=logits_SE.device)
    numbers_R = torch.arange(len(lengths), device=logits_SE.device)
    probabilities_SE = _probabilities(logits_SE.to(torch.promote_types(logits_SE.dtype, torch.float32)))
    # A product, not a sum by index: that would add in another order every time on a GPU.
    members_RS = (numbers_R.repeat_interleave(sizes) == numbers_R.unsqueeze(1)).to(probabilities_SE)
    means_RS = members_RS / sizes.unsqueeze(1)
    chosen_SE = one_hot(choices_SK, experts).sum(1).to(probabilities_SE) / choices_SK.shape[1]
    return experts * ((means_RS @ chosen_SE) * (means_RS @ probabilities_SE)).sum(1)


def _probabilities(given_SE: Tensor) -> Tensor:
    """Softmax of logits; what is a distribution already stays: some releases of transformers call that logits."""
    values_SE = given_SE.detach()
    if len(values_SE) and bool((values_SE >= 0).all()) and bool(((values_SE.sum(1) - 1).abs() < 1e-2).all()):
        return given_SE
    return torch.softmax(given_SE, dim=1)
