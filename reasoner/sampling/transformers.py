"""The transformers sampler: needs no vLLM and runs wherever the model does; slower, and in this process.

Several requests are continued as one batch (`batch.py`); those that come meanwhile are in the next one. Axes: R rows of
the batch, V vocabulary.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer

from reasoner.errors import DataError, HandoverError, SamplerError
from reasoner.models.loading import load_model
from reasoner.models.model_config import attention_of, read_config
from reasoner.models.tensor_files import Digest, read_weights
from reasoner.records import Group, Receipt, SamplingParams
from reasoner.sampling.base import Completed, Finish, TokenRequest
from reasoner.sampling.batch import BatchRow, TokenBatch, completed
from reasoner.sampling.decoding import Decoder
from reasoner.sampling.responses import (
    NOT_FINITE,
    all_end_tokens,
    check_tokens,
    end_tokens,
    repeats,
    still_sampling,
)
from reasoner.sampling.routes import RouteRecorder


class HfSampler:
    """Samples with transformers.

    Args:
        folder: model and tokenizer in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
        max_model_len: tokens of prompt and response.
        max_sequences: responses that are sampled at the same time (at least one group is).
        returns_routes: say with every completion which experts were chosen.

    Raises:
        SamplerError: the model is shorter than `max_model_len`.
    """

    name = "hf"

    def __init__(
        self,
        folder: Path,
        dtype: str,
        device: str,
        max_model_len: int,
        max_sequences: int,
        trust_remote_code: bool,
        *,
        returns_routes: bool = False,
    ) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = read_config(folder, trust_remote_code)
        _refuse_two_rotations(config, max_model_len)
        loaded = load_model(
            folder,
            device=device,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            config=config,
            attn_implementation=attention_of(config),
        )
        model, self._names = loaded.model, loaded.names
        longest = getattr(model.config, "max_position_embeddings", max_model_len)
        if max_model_len > longest:
            raise SamplerError(
                f"the model in {folder} takes {longest} tokens, and sampling.max_prompt_tokens + max_tokens is "
                f"{max_model_len}: lower one of them"
            )
        self._model: Any = model.eval()
        routes = RouteRecorder(self._model) if returns_routes else None
        self._decoder: Any = Decoder(self._model, torch.device(device), routes)
        self.end_tokens = end_tokens(folder, self.tokenizer)
        self._device = torch.device(device)
        self.max_model_len = max_model_len
        self._max_sequences = max_sequences
        self.independent_sequences = 0  # one generator for all rows
        self._version = 0
        self._generator = torch.Generator(self._device)
        self._lock = Lock()
        """of what `submit` and `abort` leave for `receive`"""
        self._waiting: dict[tuple[int, float], deque[TokenRequest]] = {}
        """by what must be equal in a batch: the number of tokens where the model needs that, and the temperature"""
        self._aborted: set[int] = set()
        self._running: set[int] = set()
        """ids of what was submitted and not received"""
        self._batch: TokenBatch | None = None
        self._complete: deque[Completed] = deque()
        self._is_paused = False
        self.description = (
            f"transformers {transformers.__version__}, {device}, {dtype}, up to {max_sequences} sequences at once"
            f"{self._decoder.description}"
        )

    @property
    def version(self) -> int:
        return self._version

    def begin(self, seed: int) -> None:
        self._check_free("another seed")
        self._generator.manual_seed(seed)

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        with self._lock:
            check_tokens(requests, self._running, self.max_model_len)
            self._running.update(request.id for request in requests)
            for request in requests:
                even = len(request.token_ids) if self._decoder.even else 0
                self._waiting.setdefault((even, request.params.temperature), deque()).append(request)

    def abort(self, ids: Collection[int]) -> None:
        with self._lock:
            self._aborted.update(ids)

    def receive(self, timeout_s: float | None = None) -> Completed | None:
        """As in the protocol; the model runs in this call."""
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._drop_aborted()
        while not self._complete and not self._is_paused and self._has_batch():
            self._step()
            if ends is not None and time.monotonic() >= ends:
                break
            self._drop_aborted()
        if not self._complete:
            return None
        self._running.remove(self._complete[0].id)
        return self._complete.popleft()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False

    def _step(self) -> None:
        assert self._batch is not None
        self._complete += [completed(rows, self._version) for rows in self._batch.step(self._choose)]

    def _drop_aborted(self) -> None:
        with self._lock:
            ids, self._aborted = self._aborted, set()
            for waiting in self._waiting.values():
                self._complete += [
                    completed([BatchRow(request)] * request.n, self._version)
                    for request in waiting
                    if request.id in ids
                ]
            self._waiting = {
                key: deque(left)
                for key, waiting in self._waiting.items()
                if (left := [request for request in waiting if request.id not in ids])
            }
        if self._batch and ids:
            self._complete += [completed(rows, self._version) for rows in self._batch.take(ids)]

    def _has_batch(self) -> bool:
        """Whether there is a batch to go on with: the one that runs, else a new one of what waits."""
        if not self._batch:
            requests = self._next_requests()
            self._batch = TokenBatch(self._decoder, requests) if requests else None
        return self._batch is not None

    def _next_requests(self) -> list[TokenRequest]:
        """As many as are sampled at once, of one kind, in their order."""
        requests: list[TokenRequest] = []
        with self._lock:
            for key in [*self._waiting][:1]:
                waiting, rows = self._waiting[key], 0
                while waiting and (not requests or rows + waiting[0].n <= self._max_sequences):
                    requests.append(waiting.popleft())
                    rows += requests[-1].n
                if not waiting:
                    del self._waiting[key]
        return requests

    def _check_free(self, what: str) -> None:
        if self._running:
            raise SamplerError(still_sampling(what))

    def _choose(self, logits_RV: Tensor, rows: Sequence[BatchRow]) -> Tensor:
        """Draw a token for every row from softmax(logits / T), or the likeliest at T = 0; unfinished rows take it."""
        temperature = rows[0].request.params.temperature
        logprobs_RV = (logits_RV / (temperature or 1.0)).log_softmax(-1)
        if logprobs_RV.isnan().any():
            raise SamplerError(NOT_FINITE)
        if temperature == 0.0:
            tokens_R = logprobs_RV.argmax(-1)
        else:
            tokens_R = torch.multinomial(logprobs_RV.exp(), 1, generator=self._generator)[:, 0]
        chosen_R = logprobs_RV.gather(-1, tokens_R[:, None])[:, 0]
        for row, token, logprob in zip(rows, tokens_R.tolist(), chosen_R.tolist(), strict=True):
            if row.finish is None:
                row.add(token, logprob, self._version)
                row.finish = self._finish(row.token_ids, row.request.params)
        return tokens_R

    def _finish(self, token_ids: array[int], params: SamplingParams) -> Finish | None:
        if token_ids[-1] in all_end_tokens(self.end_tokens, params) or self._ends_with_stop(token_ids, params.stop):
            return "stop"
        if len(token_ids) >= params.max_tokens:
            return "length"
        return "repetition" if params.stop_repetition and repeats(token_ids, params.stop_repetition) else None

    def _ends_with_stop(self, token_ids: array[int], stop: tuple[str, ...]) -> bool:
        """Whether the last tokens spell a stop string; a character takes at most four tokens."""
        if not stop:
            return False
        tail = self.tokenizer.decode(token_ids[-4 * max(map(len, stop)) :].tolist(), skip_special_tokens=True)
        return any(string in tail for string in stop)

    @torch.no_grad()
    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        return {"": [logprobs for group in groups for logprobs in self._score(group)]}

    def _score(self, group: Group) -> Iterator[list[float]]:
        """The responses side by side: what is padded comes after what is read."""
        rows = [torch.tensor([*group.prompt_ids, *response.token_ids]) for response in group.responses]
        ids_RT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self._device)
        logits_RTV = self._model(input_ids=ids_RT, use_cache=False).logits[:, len(group.prompt_ids) - 1 : -1].float()
        chosen_RT1 = ids_RT[:, len(group.prompt_ids) :, None]
        logprobs_RT = logits_RTV.log_softmax(-1).gather(-1, chosen_RT1)[..., 0]
        for response, logprobs_T in zip(group.responses, logprobs_RT.tolist(), strict=True):
            yield logprobs_T[: len(response.token_ids)]

    @torch.no_grad()
    def load(self, folder: Path, version: int) -> Receipt:
        if not self._is_paused:
            self._check_free("new weights")
        started = time.monotonic()
        digest = Digest()
        ours = self._model.state_dict(keep_vars=True)
        try:
            for name, tensor in self._names.loaded(read_weights(folder, digest)):
                ours[name].copy_(tensor)
        except DataError as error:
            raise HandoverError(
                f"the published weights are not those of the sampler's model: {error}. Learner and sampler were opened "
                "with different models."
            ) from error
        self._version = version
        if self._batch:
            self._batch.read_again()
        return Receipt(version, digest.checksum, digest.tensors, time.monotonic() - started)

    def sleep(self) -> None:
        if self._device.type == "cuda":
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self._model.to(self._device)

    def close(self) -> None:
        self._model = self._decoder = self._batch = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _refuse_two_rotations(config: Any, max_model_len: int) -> None:
    """With `longrope` the rotation of all positions changes where a sequence grows beyond the original context, and
    what the cache holds was rotated the other way.

    Raises:
        SamplerError: sequences may grow that long.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    short = rope.get("original_max_position_embeddings", max_model_len)
    if rope.get("rope_type") == "longrope" and max_model_len > short:
        raise SamplerError(
            f"sampling.engine = 'hf' takes {short} tokens of this model, and sampling.max_prompt_tokens + max_tokens "
            f"is {max_model_len}: beyond its original context (longrope) the positions of what was read already "
            "change. Lower one of them"
        )
