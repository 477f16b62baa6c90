"""What takes weights in a process of its own, for `scripts/gpu_check buckets`: `python -m scripts.gpu_bucket_worker
ADDRESS`. It prints the checksum of what it has, and how many weights.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Client

import torch
from torch import Tensor

from reasoner.sampling.vllm.buckets import DeviceDigest, SharedBuffer, open_cuda, received_weights
from reasoner.sampling.vllm.messages import BUFFER_BYTES


def open_buffer(shared: SharedBuffer) -> Tensor:
    """The buffer of a GPU, or on a CPU a file in memory."""
    if shared.device != "cpu":
        return open_cuda(shared)
    return torch.from_file(shared.handle, shared=True, size=BUFFER_BYTES, dtype=torch.uint8)


def main() -> None:
    """Take what comes."""
    digest = DeviceDigest()
    with Client(sys.argv[1], "AF_UNIX") as channel:
        for _ in received_weights(channel, open_buffer, digest):
            pass
    print(json.dumps([digest.checksum, digest.tensors]))


if __name__ == "__main__":
    main()
