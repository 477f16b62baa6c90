"""The vLLM sampler, on CUDA or with the CPU build: this side of the process that holds the engine (`host.py`)."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from reasoner.errors import SamplerError
from reasoner.models.tokenizer import open_tokenizer
from reasoner.records import Group, Receipt
from reasoner.sampling.base import Completed, TokenRequest
from reasoner.sampling.responses import check_tokens, end_tokens, still_sampling
from reasoner.sampling.vllm.messages import (
    Abort,
    Begin,
    Load,
    PauseSampling,
    ResumeSampling,
    ScoreRequest,
    Sleep,
    StartEngine,
    Submit,
    Value,
    Wake,
)
from reasoner.sampling.vllm.process import EngineProcess

if TYPE_CHECKING:
    from torch import Tensor

    from reasoner.sampling.vllm.device_link import DeviceLink

_NO_WEIGHTS = -1
"""the version of an engine without weights; others below 0 are of weights that were changed on purpose"""


class VllmSampler:
    """Samples with vLLM. The engine continues to sample while the caller works on what it already has.

    Args:
        start: the engine.
        log: file to which everything that vLLM prints is added.

    Raises:
        SamplerError: vLLM did not start; the message ends with what it printed.
    """

    name = "vllm"

    def __init__(self, start: StartEngine, log: Path) -> None:
        self._start = start
        self._version = 0
        self.max_model_len = start.max_model_len
        self.tokenizer: Any = open_tokenizer(Path(start.model), start.trust_remote_code)
        self.end_tokens = end_tokens(Path(start.model), self.tokenizer)
        self._running: set[int] = set()
        self._is_paused = False
        self._link: DeviceLink | None = None
        self._device_obstacle: str | None = None
        """None: it has not been tried"""
        self._host = EngineProcess(start, log)
        self.description = self._host.ready.description
        # the CPU build has one generator for all requests
        self.independent_sequences = self._host.ready.max_sequences if start.device == "cuda" else 0

    @property
    def version(self) -> int:
        """As in the protocol; -1 after a sleep that gave the weights up."""
        return self._version

    def begin(self, seed: int) -> None:
        self._check_free("another seed")
        self._need_weights()
        self._host.call(Begin(seed))

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        check_tokens(requests, self._running, self.max_model_len)
        self._running.update(request.id for request in requests)
        self._host.send(Submit(tuple(requests)))

    def abort(self, ids: Collection[int]) -> None:
        self._host.send(Abort(tuple(ids)))

    def receive(self, timeout_s: float | None = None) -> Completed | None:
        if not self._running:
            return None
        completed = self._host.completed(0.0 if self._is_paused else timeout_s)
        if completed:
            self._running.remove(completed.id)
        return completed

    def pause(self) -> None:
        self._host.call(PauseSampling())
        self._is_paused = True

    def resume(self) -> None:
        self._host.call(ResumeSampling())
        self._is_paused = False

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        self._check_free("log-probabilities")
        self._need_weights()
        rows = tuple((group.prompt_ids, response.token_ids) for group in groups for response in group.responses)
        value = self._host.call(ScoreRequest(rows))
        if not isinstance(value, list):
            raise SamplerError(f"vLLM answered {value!r} instead of log-probabilities; this is a bug")
        return {"": value}

    def load(self, folder: Path, version: int) -> Receipt:
        started = time.monotonic()
        if not self._is_paused:
            self._check_free("new weights")
        try:
            value = self._host.call(Load(str(folder), version))
        except SamplerError:
            # vLLM takes the old weights apart first: what it holds now are the weights of no version
            self.close()
            raise
        return self._receipt(value, version, started)

    def _receipt(self, value: Value, version: int, started: float) -> Receipt:
        if not isinstance(value, tuple):
            raise SamplerError(f"vLLM answered the load of version {version} with {value!r} instead of a receipt")
        self._version = version
        checksum, tensors = value
        return Receipt(version, checksum, tensors, time.monotonic() - started)

    def device_obstacle(self) -> str:
        """Why it does not take weights from this process's GPU; empty: it does, which was tried once."""
        if self._start.adapter_rank:
            return "an adapter goes over alone"
        if self._start.tensor_parallel > 1:
            return f"the engine has {self._start.tensor_parallel} GPUs"
        if self._device_obstacle is None:
            self._device_obstacle = self._try_device()
        return self._device_obstacle

    def _try_device(self) -> str:
        from reasoner.sampling.vllm.device_link import DeviceLink

        try:
            link = DeviceLink(self._host)
            why = link.try_it()
        except (RuntimeError, OSError) as error:  # of CUDA, or of the socket: the weights go as files
            return f"CUDA IPC does not work here ({type(error).__name__}: {error})"
        if not why:
            self._link = link  # otherwise its buffer is given back
        return why

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        """As `load`, with weights on this process's GPU, after `device_obstacle` found nothing.

        Returns:
            the receipt, and the checksum of what was sent.
        """
        started = time.monotonic()
        self._check_free("new weights")
        assert self._link is not None
        try:
            value, sent = self._link.give(weights, version)
        except BaseException:
            # whatever it was, an error of the learner too: vLLM holds the weights of no version, and its answer is not
            # read
            self.close()
            raise
        receipt = self._receipt(value, version, started)
        return receipt, sent.checksum

    def sleep(self) -> None:
        self._check_free("sleep")
        self._host.call(Sleep())
        if self._start.discards_weights:
            self._version = _NO_WEIGHTS

    def wake(self) -> None:
        self._check_free("waking")
        self._host.call(Wake())

    def close(self) -> None:
        self._host.close(is_idle=not self._running)

    def _check_free(self, what: str) -> None:
        if self._running:
            raise SamplerError(still_sampling(what))

    def _need_weights(self) -> None:
        if self._version == _NO_WEIGHTS:
            raise SamplerError(
                "vLLM gave its weights up when it went to sleep, and was not given others; this is a bug"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
