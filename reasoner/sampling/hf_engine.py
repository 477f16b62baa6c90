"""The transformers sampler: needs no vLLM and runs wherever the model does; slower, and in this process.

Several groups are decoded as one batch. Every prompt goes through the model once; its cache is then repeated for the
responses of its group. Axes: B prompts of a batch, P prompt positions (left-padded), R = B * n responses that are still
being drawn, V vocabulary.
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
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner.errors import HandoverError, SamplerError
from reasoner.models import no_progress_bars
from reasoner.records import FinishReason, Group, Prompt, Receipt, Response, SamplingParams
from reasoner.sampling.responses import all_end_tokens, build_response, check_request, end_tokens, opened_block
from reasoner.weights import Digest, read_weights


@dataclass
class _Row:
    """A response while it is drawn."""

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
        max_sequences: responses that are drawn at the same time (at least one group is).

    Raises:
        SamplerError: the model is shorter than `max_model_len`.
    """

    name = "hf"

    def __init__(
        self, folder: Path, dtype: str, device: str, max_model_len: int, max_sequences: int, trust_remote_code: bool
    ) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with no_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, use_safetensors=True
            )
        longest = getattr(model.config, "max_position_embeddings", max_model_len)
        if max_model_len > longest:
            raise SamplerError(
                f"the model in {folder} takes {longest} tokens, and sampling.max_prompt_tokens + max_tokens is "
                f"{max_model_len}: lower one of them"
            )
        self._model: Any = model.to(device).eval()
        self._end_tokens = end_tokens(folder, self._tokenizer)
        self._device = torch.device(device)
        self._max_model_len = max_model_len
        self._max_sequences = max_sequences
        self._version = 0
        self.description = (
            f"transformers {transformers.__version__}, {device}, {dtype}, up to {max_sequences} sequences at once"
        )

    @property
    def version(self) -> int:
        return self._version

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        check_request(prompts, n, params, self._max_model_len)
        return self._draw(prompts, n, params)

    def _draw(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        generator = torch.Generator(self._device).manual_seed(params.seed)
        together = max(1, self._max_sequences // n)
        for first in range(0, len(prompts), together):
            batch = prompts[first : first + together]
            for index, rows in self._draw_batch(batch, n, params, generator):
                opened = opened_block(self._tokenizer, batch[index].token_ids)
                responses = tuple(self._response(row, params, opened) for row in rows)
                yield Group(batch[index].problem, batch[index].token_ids, responses)

    def _draw_batch(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, generator: torch.Generator
    ) -> Iterator[tuple[int, list[_Row]]]:
        """Yield the rows of each group when its last one is finished; finished groups leave the batch."""
        groups = [[_Row(index) for _ in range(n)] for index in range(len(prompts))]
        rows = [row for group in groups for row in group]
        logits_RV, cache, mask_RP = self._prefill(prompts, n)
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
                cache.batch_select_indices(keep_R)
                tokens_R, mask_RP = tokens_R[keep_R], mask_RP[keep_R]
            mask_RP = torch.nn.functional.pad(mask_RP, (0, 1), value=1)
            logits_RV = self._forward(tokens_R[:, None], mask_RP, cache)

    def _prefill(self, prompts: Sequence[Prompt], n: int) -> tuple[Tensor, Any, Tensor]:
        """Logits after each prompt, the filled cache and the attention mask, repeated for n responses each."""
        longest = max(len(prompt.token_ids) for prompt in prompts)
        ids_BP = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BP = torch.zeros(len(prompts), longest, dtype=torch.long)
        for at, prompt in enumerate(prompts):
            ids_BP[at, longest - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            mask_BP[at, longest - len(prompt.token_ids) :] = 1
        mask_BP = mask_BP.to(self._device)
        cache = transformers.DynamicCache(config=self._model.config)
        logits_BV = self._forward(ids_BP.to(self._device), mask_BP, cache)
        cache.batch_repeat_interleave(n)
        return logits_BV.repeat_interleave(n, 0), cache, mask_BP.repeat_interleave(n, 0)

    @torch.no_grad()
    def _forward(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits (rows, V) at the last position, float32; adds the positions of `ids` to the cache."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _choose(
        self, logits_RV: Tensor, rows: Sequence[_Row], params: SamplingParams, generator: torch.Generator
    ) -> Tensor:
        """Draw a token for every row from softmax(logits / T), or the likeliest at T = 0; unfinished rows take it."""
        logprobs_RV = (logits_RV / (params.temperature or 1.0)).log_softmax(-1)
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
            raise SamplerError("a response was put together before it was finished; this is a bug")
        ends = all_end_tokens(self._end_tokens, params)
        return build_response(
            self._tokenizer, row.token_ids, row.logprobs, row.finish, params.stop, self._version, opened, ends
        )

    @torch.no_grad()
    def load(self, folder: Path, version: int) -> Receipt:
        started = time.monotonic()
        digest = Digest()
        ours = dict(self._model.named_parameters(remove_duplicate=False))
        missing = set(ours)
        for name, tensor in read_weights(folder, digest):
            if name not in ours or ours[name].shape != tensor.shape:
                raise HandoverError(
                    f"the published tensor {name!r} of shape {list(tensor.shape)} is not one of the sampler's model: "
                    "learner and sampler were opened with different models"
                )
            ours[name].copy_(tensor)
            missing -= {other for other in missing if ours[other] is ours[name]}
        if missing:
            raise HandoverError(
                f"the published weights lack {len(missing)} tensors of the sampler's model, among them "
                f"{sorted(missing)[:3]}: it would keep the old ones"
            )
        self._version = version
        return Receipt(version, digest.checksum, digest.tensors, time.monotonic() - started)

    def sleep(self) -> None:
        if self._device.type == "cuda":
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self._model.to(self._device)

    def close(self) -> None:
        self._model = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
