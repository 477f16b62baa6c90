"""The processes that train together, one per device: who am I, and how do we exchange small values.

Under a launcher every rank runs the same program on the same data; what differs is the share that it samples, scores
and puts through the model. Everything here is a collective: all ranks call it, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def open_ranks(device: str) -> Iterator[None]:
    """A process group of this process alone, which DeepSpeed needs: no port, no launcher."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dist.destroy_process_group()
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before
