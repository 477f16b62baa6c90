"""The state of a learner on DeepSpeed, whole, in the files of `optimizer.py`: it says nothing of ZeRO stages or ranks.

DeepSpeed's own checkpoints are pickles of shards. Here every tensor is gathered in float32, one after the other, and
put back into whatever the new run spreads it over; both are exact. The functions are collective: all ranks call them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reasoner.learning.model.backbone import Backbone
from reasoner.learning.optimizer import MOMENTS, STEM, trained_weights
from reasoner.models.tensor_files import read_files


def exact_weight(tensor: Tensor) -> Tensor | None:
    """The float32 numbers that the optimiser changes for a trained parameter; None: DeepSpeed has none beside it."""
    from deepspeed.utils import safe_get_full_fp32_param

    weight: Tensor | None = safe_get_full_fp32_param(tensor) if _is_spread(tensor) else None
    return weight


def moments(named: Mapping[str, nn.Parameter], optimizer: Any, steps: int) -> Iterator[tuple[str, Tensor]]:
    """AdamW's tensors as `Optimizer.save` writes them.

    Args:
        named: the trained parameters.
        optimizer: DeepSpeed's.
        steps: that it made.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    for name, parameter in named.items():
        for kind in MOMENTS:
            spread = _is_spread(parameter)
            moment = safe_get_full_optimizer_state(parameter, kind) if spread else optimizer.state[parameter][kind]
            yield f"{kind}/{name}", moment
        yield f"step/{name}", torch.tensor(float(steps))


def restore(
    named: Mapping[str, nn.Parameter], optimizer: Any, checkpoint: Path, steps: int, idle_step: Callable[[], None]
) -> None:
    """Put back what `moments` gave.

    Args:
        named: the trained parameters, with the checkpoint's weights.
        optimizer: DeepSpeed's, new.
        steps: that the old one made.
        idle_step: makes a step at learning rate 0: DeepSpeed makes room for its state at the first one.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    idle_step()
    for key, tensor in read_files(checkpoint, f"{STEM}-*"):
        kind, _, name = key.partition("/")
        parameter = named[name]
        if kind in MOMENTS and hasattr(parameter, "ds_tensor"):
            safe_set_local_optimizer_state(parameter, _own_part(parameter, tensor), kind)
        elif kind in MOMENTS and _is_spread(parameter):
            safe_set_full_optimizer_state(parameter, tensor, kind)
        elif kind in MOMENTS:
            optimizer.state[parameter][kind].copy_(tensor)
    for state in getattr(optimizer, "optimizer", optimizer).state.values():
        state["step"] = torch.full_like(torch.as_tensor(state["step"], dtype=torch.float32), float(steps))


def restore_weights(policy: Backbone, checkpoint: Path) -> None:
    """Put back the trained weights of a checkpoint in float32."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    folder = trained_weights(checkpoint)
    assert folder is not None
    state = policy.model.state_dict(keep_vars=True)
    for name, tensor in policy.weights.read_checkpoint(folder):
        if state[name].requires_grad and hasattr(state[name], "ds_tensor"):
            safe_set_local_fp32_param(state[name], _own_part(state[name], tensor))
        elif state[name].requires_grad and _is_spread(state[name]):
            safe_set_full_fp32_param(state[name], tensor)


def _own_part(parameter: Any, whole: Tensor) -> Tensor:
    """What this rank has of a tensor that ZeRO 3 spreads: parts of equal size, of which the last is filled up.
    DeepSpeed's own way ends with an error there."""
    size = parameter.ds_tensor.numel()
    part = whole.flatten()[size * torch.distributed.get_rank(parameter.ds_process_group) :][:size]
    return torch.nn.functional.pad(part, (0, size - len(part)))


def _is_spread(tensor: Tensor) -> bool:
    """Whether DeepSpeed keeps float32 numbers of its own for it (ZeRO 1 to 3)."""
    return hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping")
