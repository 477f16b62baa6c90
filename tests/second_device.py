"""A device beside the CPU, for code that runs on GPUs alone: torch takes its tensors for those of another device, and
their numbers are computed on the CPU.

What mixes the two devices, or reads numbers that are not on the CPU, fails as it does on CUDA, and branches for "not
the CPU" are taken. Opening it changes torch for good: in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.attention.varlen  # registers operators
import torch.utils.backend_registration as registration
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
_AUTOCAST = "AutocastPrivateUse1"
_libraries: list[torch.library.Library] = []
"""what is registered in them is there as long as they are"""
_aten, _attention = torch.ops.aten, torch.ops.torch_attn


class SecondDeviceTensor(Tensor):
    """A tensor of the device."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> SecondDeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(NAME, 0),
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.numbers!r} on the second device"


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes new tensors there where they are asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Construction(TorchFunctionMode):
    """Has tensors that are made of Python's numbers copied to the device: torch does that below any dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None) if func is torch.tensor else None
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


@contextmanager
def second_device() -> Iterator[str]:
    """The name of the device, which works meanwhile."""
    module = SimpleNamespace(
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,
        current_device=lambda: 0,
        device_count=lambda: 1,
        get_rng_state=lambda device=0: torch.empty(0, dtype=torch.uint8),
        set_rng_state=lambda state, device=0: None,
    )
    registration._setup_privateuseone_for_python_backend(NAME, module)
    _register_autocast()
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied weights stay tied, as on CUDA
    with _Construction(), _Dispatch():  # type: ignore[no-untyped-call]
        yield NAME


def _register_autocast() -> None:
    """Products in the number format of autocast, everything else as it is."""
    library: Any = torch.library.Library
    passing, products = library("_", "IMPL", _AUTOCAST), library("aten", "IMPL", _AUTOCAST)
    passing.fallback(torch.library.fallthrough_kernel)
    for name in ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention"):
        products.impl(name, partial(_narrowed, getattr(_aten, name)))
    _libraries.extend((passing, products))


def _narrowed(product: Any, *args: Any, **kwargs: Any) -> Any:
    def narrow(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.dtype == torch.float32
        return value.to(torch.get_autocast_dtype(NAME)) if floating else value

    key = getattr(torch._C.DispatchKey, _AUTOCAST)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        args, kwargs = tree_map(narrow, (args, kwargs))
        return product(*args, **kwargs)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [isinstance(value, SecondDeviceTensor) for value in tensors]
    if any(there) and func not in _MIXED:
        for value, is_there in zip(tensors, there, strict=True):
            if not is_there and value.dim():
                raise RuntimeError(f"{func}: expected all tensors to be on the same device, got {tensors!r}")
    wanted = kwargs.get("device")
    is_result_there = any(there) if wanted is None else torch.device(wanted).type == NAME
    args, kwargs = tree_map(_numbers, (args, kwargs))
    result = _KERNELS.get(func, func)(*args, **kwargs)
    return tree_map(_on_device, result) if is_result_there else result


def _numbers(value: Any) -> Any:
    if isinstance(value, SecondDeviceTensor):
        return value.numbers
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _on_device(value: Any) -> Any:
    return SecondDeviceTensor(value) if isinstance(value, Tensor) else value


def _attention_forward(
    query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    _, _, is_causal, scale, window, is_grouped, *_ = options
    assert query.dtype in (torch.bfloat16, torch.float16)
    assert is_causal
    assert window == [-1, 0]
    assert is_grouped == (query.shape[1] != key.shape[1])
    output, _ = _by_segment(query, key, value, queries, keys, scale, torch.zeros_like(query))
    return output, output.new_zeros((query.shape[1], len(query)), dtype=torch.float32), torch.zeros(2)


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, _: Tensor, __: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    queries, keys, _, _, _, _, scale, _ = options
    return _by_segment(query, key, value, queries, keys, scale, gradient)[1]


def _by_segment(
    query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, scale: float | None, gradient: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Causal attention inside each segment, aligned at its end, and what it makes of the gradient of its output."""
    share, scale = query.shape[1] // key.shape[1], scale or query.shape[-1] ** -0.5
    q_HSD, g_HSD = query.float().transpose(0, 1), gradient.float().transpose(0, 1)
    k_HSD, v_HSD = (part.float().transpose(0, 1).repeat_interleave(share, 0) for part in (key, value))
    output_HSD, gradients = torch.zeros_like(q_HSD), [torch.zeros_like(part) for part in (q_HSD, k_HSD, v_HSD)]
    for (q0, q1), (k0, k1) in zip(pairwise(queries.tolist()), pairwise(keys.tolist()), strict=True):
        own, seen = slice(q0, q1), slice(k0, k1)
        q, k, v, g = q_HSD[:, own], k_HSD[:, seen], v_HSD[:, seen], g_HSD[:, own]
        hidden = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).triu(k1 - k0 - q1 + q0 + 1)
        probs = (q @ k.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1)
        output_HSD[:, own] = probs @ v
        slope = g @ v.mT
        slope = probs * (slope - (slope * probs).sum(-1, keepdim=True)) * scale
        for part, place, added in zip(
            gradients, (own, seen, seen), (slope @ k, slope.mT @ q, probs.mT @ g), strict=True
        ):
            part[:, place] = added
    shared = [gradients[0], *(part.reshape(-1, share, *part.shape[1:]).sum(1) for part in gradients[1:])]
    of_query, of_key, of_value = (part.transpose(0, 1).to(query.dtype) for part in shared)
    return output_HSD.transpose(0, 1).to(query.dtype), (of_query, of_key, of_value)


def _histogram(numbers: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.histc(numbers.double(), *args, **kwargs).to(numbers.dtype)


def _wide_product(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    return first.to(dtype) @ second.to(dtype)


def _add_wide_product(total: Tensor, first: Tensor, second: Tensor, dtype: torch.dtype, *, out: Tensor) -> Tensor:
    assert total.dtype == dtype
    return out.copy_(total + _wide_product(first, second, dtype))


_MIXED = {_aten._to_copy.default, _aten.copy_.default, _aten.index.Tensor, _aten.index_put_.default}
"""what takes tensors of both devices on CUDA, too"""
_KERNELS = {
    _attention._varlen_attn.default: _attention_forward,
    _attention._varlen_attn_backward.default: _attention_backward,
    _aten.histc.default: _histogram,
    _aten.mm.dtype: _wide_product,
    _aten.addmm.dtype_out: _add_wide_product,
}
"""those that the CPU has not"""
