"""MLPs that take the tokens of a row in tiles.

An MLP works token by token, and its intermediate values are the widest of a layer: 4 I numbers a token beside 6 H. Here
it gets a tile of the tokens at a time. What a tile computes is dropped and computed again when its gradient is wanted,
so that the intermediate values of one tile are in memory at once, however long the row is (Arctic Long Sequence
Training, 2506.13996, section 3.1). Values and gradient are those of the whole, up to the order of the weights' sums.

Built on torch's checkpoints and not on DeepSpeed's `TiledMLP`: that calls backward once for every tile, which ZeRO 1
to 3 have to be told apart by marks on the weights, and adapters have none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reasoner.errors import UserError
from reasoner.models.size import has_experts

_NAMES = ("mlp", "feed_forward", "ffn")
"""of an MLP in a layer of transformers"""


def tile_mlps(model: nn.Module, tokens: int, *, required: bool = True) -> None:
    """Have every MLP of a model take at most so many tokens at once.

    Experts are left as they are: their tokens come in another order and are few for each.

    Args:
        required: False leaves a model as it is whose MLPs cannot.

    Raises:
        UserError: it is required, and the model has no MLP that is known.
    """
    mlps = [module for name, module in model.named_modules() if name.rpartition(".")[2] in _NAMES]
    dense = [mlp for mlp in mlps if not has_experts(name for name, _ in mlp.named_modules())]
    if required and not dense:
        what = "its MLPs are experts" if mlps else f"no part of its layers is called {' or '.join(_NAMES)}"
        raise UserError(
            f"learning.mlp_tile = {tokens} is impossible for {type(model).__name__}: {what}; leave it out, and take "
            "learning.gradient_checkpointing = true"
        )
    for mlp in dense:
        setattr(mlp, "forward", partial(_in_tiles, mlp.forward, tokens, required))  # noqa: B010  mypy: a method


def _in_tiles(
    forward: Callable[..., Any], tokens: int, required: bool, hidden_BLH: Tensor, *others: Any, **named: Any
) -> Any:
    """The MLP's output, (B, L, H), from tiles of (1, tokens, H)."""
    if others or named:
        if not required:
            return forward(hidden_BLH, *others, **named)
        raise UserError("learning.mlp_tile is impossible for this model: its MLPs take more than hidden states")
    flat = hidden_BLH.reshape(1, -1, hidden_BLH.shape[-1])
    if flat.shape[1] <= tokens:
        return forward(hidden_BLH)
    compute = forward
    if torch.is_grad_enabled():
        # Nothing is drawn at random in a learner's forward pass.
        compute = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([compute(tile) for tile in torch.split(flat, tokens, 1)], 1).view(hidden_BLH.shape)
