"""The device that learner, reference and critic are on, next to a sampler: which kernels they use, and memory given
back."""

from __future__ import annotations

import ctypes
import gc

import torch

_M_MMAP_THRESHOLD = -3
"""of mallopt (malloc.h)"""
_BLOCK = 256 * 1024
"""bytes from which on a block goes back to the system when it is freed"""


def prepare_device(device: str) -> None:
    """Before a model goes through `device`: attention without cuDNN.

    On compute capability 9 and 10 torch prefers cuDNN's kernel for scaled dot products. cuDNN plans anew for every
    shape, a plan takes from 0.04 to 0.5 seconds, and packed responses have other lengths at every step.
    """
    if torch.device(device).type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def return_freed_blocks() -> bool:
    """Have glibc's malloc give back every block of 256 KiB or more as soon as it is freed; False: there is no glibc.

    It takes such blocks from the system one by one, but raises the limit to the largest one that was freed, up to 32
    MiB. From then on activations lie on the heap between what stays (gradients of small weights, an adapter's results),
    and their places cannot be given back: an update that recomputes 75 MiB of activations at a time took 630 MiB. The
    price is a page fault for every 4 KiB that is written to again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _BLOCK) == 1


def device_bytes(device: torch.device) -> int:
    """Memory of a GPU in all; 0 for a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def release_device_memory() -> None:
    """Give the memory back that this process no longer uses and its allocator keeps: another process on the same
    device, a sampler that wakes up, cannot have it otherwise. On a GPU that is torch's, on a CPU the C library's, which
    keeps what lies below something that is still in use: 0.4 GiB after an update of 135 million parameters."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
    elif trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
