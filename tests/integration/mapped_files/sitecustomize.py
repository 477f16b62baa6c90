"""In the process of a vLLM engine a file is mapped in the place of a GPU's buffer: Python imports this at its start
where the folder is on its path (`test_vllm_engine`).
"""

from __future__ import annotations

import sys

if "reasoner.sampling.vllm.host" in sys.orig_argv:
    import torch
    from torch import Tensor

    from reasoner.sampling.vllm import buckets
    from reasoner.sampling.vllm.buckets import SharedBuffer

    def open_file(shared: SharedBuffer) -> Tensor:
        file, size = shared.handle
        return torch.from_file(file, shared=True, size=size, dtype=torch.uint8)

    buckets.open_cuda = open_file
