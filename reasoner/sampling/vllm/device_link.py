"""The learner's end of weights that go to vLLM on the same GPU (`buckets.py` has what both ends say)."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from reasoner.errors import SamplerError
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.sampling.vllm.buckets import (
    ANSWER_S,
    DeviceDigest,
    SharedBuffer,
    send_weights,
    share_cuda,
)
from reasoner.sampling.vllm.messages import BUFFER_BYTES, TakeBuckets, Value
from reasoner.sampling.vllm.process import EngineProcess

_TRIED_BYTES = 2**20


class DeviceLink:
    """A buffer on the GPU through which weights get to vLLM's worker.

    Args:
        host: the process with the worker.
        buffer: (bytes,) uint8; None: one on this process's GPU.
        share: says where the buffer is.

    Raises:
        RuntimeError: the GPU has no room for the buffer, or does not share it.
    """

    def __init__(
        self,
        host: EngineProcess,
        buffer: Tensor | None = None,
        share: Callable[[Tensor], SharedBuffer] = share_cuda,
    ) -> None:
        self._host = host
        self._buffer = torch.empty(BUFFER_BYTES, dtype=torch.uint8, device="cuda") if buffer is None else buffer
        self._shared = share(self._buffer)

    def give(self, weights: Iterable[tuple[str, Tensor]], version: int | None) -> tuple[Value, DeviceDigest]:
        """Have the worker take weights; returns its receipt, and the checksum of what was sent.

        Args:
            weights: read to their end, whatever happens: other ranks may gather them together with this one.
            version: None: they are a trial, which it does not load.

        Raises:
            SamplerError: it did not take them.
        """
        weights = iter(weights)
        try:
            return self._give(weights, version)
        finally:
            deque(weights, maxlen=0)

    def _give(self, weights: Iterator[tuple[str, Tensor]], version: int | None) -> tuple[Value, DeviceDigest]:
        with ScratchFolder("buckets") as folder:
            with _listening(folder / "socket") as listener:
                self._host.send(TakeBuckets(str(folder / "socket"), version))
                try:
                    sent = self._sent(listener, weights)
                except Exception:
                    if version is None:  # the engine goes on: what it says of this must not answer what comes next
                        listener.close()
                        with suppress(SamplerError):
                            self._host.reply()
                    raise
            value = self._host.reply()  # says why, as a rule
        if isinstance(sent, DeviceDigest):
            return value, sent
        if version is None:
            return value, DeviceDigest()
        raise SamplerError(f"vLLM was given weights on the GPU and {sent}; it answered {value!r}")

    def _sent(self, listener: socket.socket, weights: Iterator[tuple[str, Tensor]]) -> DeviceDigest | str:
        """The checksum of what was sent; or how the worker broke off, which its answer explains."""
        channel = self._accepted(listener)
        if channel is None:
            return "did not come for them"
        with channel:
            try:
                return send_weights(channel, self._buffer, self._shared, weights)
            except (EOFError, OSError) as error:
                return f"broke off ({error!r})"

    def _accepted(self, listener: socket.socket) -> Connection | None:
        """The worker's connection; None: it failed before it had one."""
        ends = time.monotonic() + ANSWER_S
        while time.monotonic() < ends:
            try:
                return Connection(listener.accept()[0].detach())
            except TimeoutError:
                if self._host.has_replied:
                    return None
        raise SamplerError(f"vLLM's worker did not come for weights on the GPU within {ANSWER_S:.0f} s")

    def try_it(self) -> str:
        """Send a little; returns why it did not arrive, or nothing."""
        generator = torch.Generator().manual_seed(0)
        halves = torch.randint(-(2**15), 2**15, (2, _TRIED_BYTES // 4), generator=generator, dtype=torch.int16)
        value, digest = self.give([("first", halves[0]), ("second", halves[1])], None)
        if isinstance(value, str):
            return value
        return "" if value == (digest.checksum, digest.tensors) else f"what arrived is not what was sent: {value!r}"


def _listening(path: Path) -> closing[socket.socket]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(1.0)
    return closing(listener)
