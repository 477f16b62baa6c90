"""The vLLM sampler, on CUDA or with the CPU build: this side of the process that holds the engine (`vllm_host`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from reasoner.distributed.seeds import derive_seed
from reasoner.errors import SamplerError
from reasoner.records import Group, Prompt, Receipt, SamplingParams
from reasoner.sampling.responses import check_request
from reasoner.sampling.vllm.messages import (
    Done,
    Load,
    Request,
    SampleReply,
    SampleRequest,
    ScoreRequest,
    Sleep,
    StartEngine,
    Stop,
    Value,
    Wake,
)
from reasoner.sampling.vllm.process import EngineProcess

_NOBODYS = -1
"""version of the weights after a sleep that gave them up; `load` may bring others that nobody samples with (-2)"""


def prompt_seeds(seed: int, prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """A seed for every prompt: a hash of the draw's seed and the problem, so that the responses do not depend on which
    other prompts are sampled with it, nor on their order. A problem that comes again has other noise.

    vLLM adds a response's number to it; below 2^62 there is room for that.
    """
    times: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        name = prompt.problem.id
        seeds.append(derive_seed(seed, "prompt", name, times[name]) >> 1)
        times[name] += 1
    return tuple(seeds)


class VllmSampler:
    """Samples with vLLM. The engine continues to sample while the caller works on the groups that it already has.

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
        self._host = EngineProcess(start, log)
        self.description = self._host.description

    @property
    def version(self) -> int:
        """As in the protocol; -1 after a sleep that gave the weights up."""
        return self._version

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        check_request(prompts, n, params, self._start.max_model_len)
        self._need_weights()
        return self._draw(prompts, n, params)

    def _draw(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        seeds = prompt_seeds(params.seed, prompts) if self._start.device == "cuda" else ()
        self._host.request(SampleRequest(tuple(prompt.token_ids for prompt in prompts), n, params, seeds))
        try:
            while isinstance(reply := self._host.reply(), SampleReply):
                prompt = prompts[reply.index]
                yield Group(prompt.problem, prompt.token_ids, reply.responses)
        except GeneratorExit:
            self._stop()
            raise

    def _stop(self) -> None:
        """The caller has enough: end the drawing, so that the next request finds the engine free."""
        if self._host.is_open:
            self._host.request(Stop())
            while isinstance(self._host.reply(), SampleReply):
                pass

    def _need_weights(self) -> None:
        if self._version == _NOBODYS:
            raise SamplerError(
                "vLLM gave its weights up when it went to sleep, and was not given others; this is a bug"
            )

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        self._need_weights()
        rows = tuple((group.prompt_ids, response.token_ids) for group in groups for response in group.responses)
        value = self._ask(ScoreRequest(rows))
        if not isinstance(value, list):
            raise SamplerError(f"vLLM answered {value!r} instead of log-probabilities; this is a bug")
        return {"": value}

    def load(self, folder: Path, version: int) -> Receipt:
        started = time.monotonic()
        try:
            value = self._ask(Load(str(folder), version))
        except SamplerError:
            # vLLM takes the old weights apart first: what it holds now are the weights of no version
            self.close()
            raise
        if not isinstance(value, tuple):
            raise SamplerError(f"vLLM answered the load of version {version} with {value!r} instead of a receipt")
        self._version = version
        checksum, tensors = value
        return Receipt(version, checksum, tensors, time.monotonic() - started)

    def sleep(self) -> None:
        self._ask(Sleep())
        if self._start.discards_weights:
            self._version = _NOBODYS

    def wake(self) -> None:
        self._ask(Wake())

    def close(self) -> None:
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, request: Request) -> Value:
        self._host.request(request)
        reply = self._host.reply()
        if not isinstance(reply, Done):
            raise SamplerError(f"vLLM answered {request!r} with {reply!r}; this is a bug")
        return reply.value
