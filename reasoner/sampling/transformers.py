"""The transformers sampler: needs no vLLM and runs wherever the model does; slower, and in this process.

Several groups are decoded as one batch (`hf_decoding`). Axes: R responses that are still being sampled, V vocabulary.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer

from reasoner.errors import DataError, HandoverError, SamplerError
from reasoner.models.loading import load_model
from reasoner.models.model_config import attention_of, read_config
from reasoner.models.tensor_files import Digest, read_weights
from reasoner.records import FinishReason, Group, Prompt, Receipt, Response, SamplingParams
from reasoner.sampling.decoding import Decoder
from reasoner.sampling.responses import (
    NOT_FINITE,
    all_end_tokens,
    build_response,
    check_request,
    end_tokens,
    opened_block,
)


@dataclass
class _Row:
    """A response while it is sampled."""

    group: int
    """position of its prompt in the batch"""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason | None = None


class HfSampler:
    """Samples with transformers.

    Args:
        folder: model and tokenizer in Hugging Face format.
        dtype: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
        max_model_len: tokens of prompt and response.
        max_sequences: responses that are sampled at the same time (at least one group is).

    Raises:
        SamplerError: the model is shorter than `max_model_len`.
    """

    name = "hf"

    def __init__(
        self, folder: Path, dtype: str, device: str, max_model_len: int, max_sequences: int, trust_remote_code: bool
    ) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
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
        self._decoder: Any = Decoder(self._model, torch.device(device))
        self._end_tokens = end_tokens(folder, self._tokenizer)
        self._device = torch.device(device)
        self._max_model_len = max_model_len
        self._max_sequences = max_sequences
        self._version = 0
        self.description = (
            f"transformers {transformers.__version__}, {device}, {dtype}, up to {max_sequences} sequences at once"
            f"{self._decoder.description}"
        )

    @property
    def version(self) -> int:
        return self._version

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        check_request(prompts, n, params, self._max_model_len)
        return self._draw(prompts, n, params)

    def _draw(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        generator = torch.Generator(self._device).manual_seed(params.seed)
        for batch in self._batches(prompts, max(1, self._max_sequences // n)):
            for index, rows in self._draw_batch(batch, n, params, generator):
                opened = opened_block(self._tokenizer, batch[index].token_ids)
                responses = tuple(self._response(row, params, opened) for row in rows)
                yield Group(batch[index].problem, batch[index].token_ids, responses)

    def _batches(self, prompts: Sequence[Prompt], most: int) -> Iterator[Sequence[Prompt]]:
        """At most so many prompts at a time, in their order; those of one length where the model needs that."""
        lengths: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            lengths.setdefault(len(prompt.token_ids) if self._decoder.even else 0, []).append(prompt)
        for prompts_ in lengths.values():
            yield from (prompts_[first : first + most] for first in range(0, len(prompts_), most))

    def _draw_batch(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, generator: torch.Generator
    ) -> Iterator[tuple[int, list[_Row]]]:
        """Yield the rows of each group when its last one is finished; finished groups leave the batch."""
        groups = [[_Row(index) for _ in range(n)] for index in range(len(prompts))]
        rows = [row for group in groups for row in group]
        decoding, logits_RV = self._decoder.begin([prompt.token_ids for prompt in prompts], n)
        while True:
            tokens_R = self._choose(logits_RV, rows, params, generator)
            complete = [index for index in sorted({row.group for row in rows}) if all(r.finish for r in groups[index])]
            yield from ((index, groups[index]) for index in complete)
            kept = [at for at, row in enumerate(rows) if row.group not in complete]
            if not kept:
                return
            if complete:
                keep_R = torch.tensor(kept, device=self._device)
                rows = [rows[at] for at in kept]
                decoding.keep(keep_R)
                tokens_R = tokens_R[keep_R]
            logits_RV = decoding.next(tokens_R)

    def _choose(
        self, logits_RV: Tensor, rows: Sequence[_Row], params: SamplingParams, generator: torch.Generator
    ) -> Tensor:
        """Draw a token for every row from softmax(logits / T), or the likeliest at T = 0; unfinished rows take it."""
        logprobs_RV = (logits_RV / (params.temperature or 1.0)).log_softmax(-1)
        if logprobs_RV.isnan().any():
            raise SamplerError(NOT_FINITE)
        if params.temperature == 0.0:
            tokens_R = logprobs_RV.argmax(-1)
        else:
            tokens_R = torch.multinomial(logprobs_RV.exp(), 1, generator=generator)[:, 0]
        chosen_R = logprobs_RV.gather(-1, tokens_R[:, None])[:, 0]
        for row, token, logprob in zip(rows, tokens_R.tolist(), chosen_R.tolist(), strict=True):
            if row.finish is None:
                row.token_ids.append(token)
                row.logprobs.append(logprob)
                row.finish = self._finish(row.token_ids, params)
        return tokens_R

    def _finish(self, token_ids: list[int], params: SamplingParams) -> FinishReason | None:
        if token_ids[-1] in all_end_tokens(self._end_tokens, params) or self._ends_with_stop(token_ids, params.stop):
            return "stop"
        return "length" if len(token_ids) >= params.max_tokens else None

    def _ends_with_stop(self, token_ids: list[int], stop: tuple[str, ...]) -> bool:
        """Whether the last tokens spell a stop string; a character takes at most four tokens."""
        if not stop:
            return False
        tail = self._tokenizer.decode(token_ids[-4 * max(map(len, stop)) :], skip_special_tokens=True)
        return any(string in tail for string in stop)

    def _response(self, row: _Row, params: SamplingParams, opened: str) -> Response:
        if row.finish is None:
            raise SamplerError("a response was assembled before it was finished; this is a bug")
        ends = all_end_tokens(self._end_tokens, params)
        return build_response(
            self._tokenizer, row.token_ids, row.logprobs, row.finish, params.stop, self._version, opened, ends
        )

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
        return Receipt(version, digest.checksum, digest.tensors, time.monotonic() - started)

    def sleep(self) -> None:
        if self._device.type == "cuda":
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self._model.to(self._device)

    def close(self) -> None:
        self._model = self._decoder = None
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
