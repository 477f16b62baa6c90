"""Methods that vLLM adds to its workers (`worker_extension_cls`): they run where weights and random numbers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reasoner.weights import Digest, read_weights


class WorkerExtension:
    """Mixed into vLLM's worker class; the names must not be the worker's own."""

    reload_weights: Any

    def seed_sampling(self, seed: int) -> None:
        """Seed the generator that all requests draw from: the CPU build cannot seed single requests."""
        torch.manual_seed(seed)

    def take_weights(self, folder: str) -> tuple[str, int]:
        """Load every tensor of `folder`; returns checksum and number of what was read."""
        digest = Digest()
        self.reload_weights(weights_iterator=read_weights(Path(folder), digest))
        return digest.checksum, digest.tensors
