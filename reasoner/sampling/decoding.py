"""The next token's logits for rows that grow together, whatever the model keeps of what it has read.

Three ways, because the obvious one, prompts padded on the left and a cache that is repeated, is right for attention
alone: a recurrent layer reads the padding too, and not every state can be repeated.

- Attention only: prompts of any length are one batch, padded on the left, and every prompt is read once.
- Recurrent layers whose state is in transformers' cache: prompts of one length are a batch, so nothing is padded.
- A state that is kept elsewhere (in the model's modules, under names of its own): the whole sequences are read again
  for every token. Slow, and right for every model.

Axes: B prompts of a batch, P positions, R responses that are still being sampled, V vocabulary, W layers x choices.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from reasoner.models.model_config import has_recurrent_layers
from reasoner.sampling.routes import RouteRecorder

_CACHES = ("cache", "past_key_values", "cache_params")
"""names under which models take transformers' cache; the first from transformers 5.24 on"""


class Decoder:
    """How a model reads what it continues."""

    def __init__(self, model: Any, device: torch.device, routes: RouteRecorder | None = None) -> None:
        self._model, self._device, self._routes = model, device, routes
        self._known = inspect.signature(model.forward).parameters
        state_in_cache = has_recurrent_layers(model.config)
        recurrent = state_in_cache or bool(getattr(model, "_is_stateful", False))
        cacheable = not recurrent or state_in_cache
        usual = getattr(model, "_supports_default_dynamic_cache", lambda: True)()
        self._cache_name = next((name for name in _CACHES if name in self._known and usual and cacheable), "")
        self.even = recurrent or not self._cache_name
        """whether the prompts of a batch must have the same number of tokens"""

    @property
    def description(self) -> str:
        """How it differs from the usual way, for the log; empty: not at all."""
        if not self._cache_name:
            return ", without a cache (the model keeps its state where it cannot be repeated): slow"
        return ", prompts of one length at a time (recurrent layers)" if self.even else ""

    def begin(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> tuple[Decoding, Tensor]:
        """Read the prompts; returns what continues each of them as often as `counts` says, and (R, V) the logits after
        them."""
        ids_BP, mask_BP = _padded(prompts)
        repeats_B = torch.tensor(counts)
        if not self._cache_name:
            decoding = Decoding(self, None, None, ids_BP.repeat_interleave(repeats_B, 0).to(self._device))
            return decoding, self.logits(decoding)
        cache = transformers.DynamicCache(config=self._model.config.get_text_config())
        decoding = Decoding(self, cache, None if self.even else mask_BP.to(self._device), ids_BP.to(self._device))
        logits_BV = self.logits(decoding)
        if decoding.routes_RPW is not None:
            decoding.routes_RPW = np.repeat(decoding.routes_RPW, counts, 0)
        repeats_B = repeats_B.to(self._device)
        decoding.keep(torch.arange(len(prompts), device=self._device).repeat_interleave(repeats_B))
        return decoding, logits_BV.repeat_interleave(repeats_B, 0)

    @torch.no_grad()
    def logits(self, decoding: Decoding) -> Tensor:
        """(rows, V) at the last position, float32; what was read is in the cache from here on."""
        ids, mask = decoding.ids, decoding.mask
        inputs: dict[str, Any] = {"input_ids": ids}
        if mask is not None:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            inputs |= {"attention_mask": mask, "position_ids": positions}
        elif decoding.cache is not None and "position_ids" in self._known:
            inputs["position_ids"] = torch.arange(decoding.read, decoding.read + ids.shape[1], device=ids.device)[None]
        if decoding.cache is not None:
            inputs[self._cache_name] = decoding.cache
        if "logits_to_keep" in self._known:
            inputs["logits_to_keep"] = 1
        inputs = {name: value for name, value in inputs.items() if name in self._known}
        output = self._model(**inputs, use_cache=decoding.cache is not None)
        decoding.read += ids.shape[1]
        if self._routes is not None:
            decoding.routes_RPW = self._routes.take(*ids.shape)
        logits: Tensor = output.logits[:, -1].float()
        return logits


class Decoding:
    """Rows that are being continued."""

    def __init__(self, decoder: Decoder, cache: Any | None, mask: Tensor | None, ids: Tensor) -> None:
        self._decoder = decoder
        self.cache, self.mask, self.ids = cache, mask, ids
        self.read = 0
        """positions that are in the cache"""
        self.routes_RPW: NDArray[np.uint16] | None = None
        """experts that were chosen, of all layers, for the positions that were read last; None: they are not asked
        for"""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order and as often as they are named."""
        if self.cache is None:
            self.ids = self.ids[rows]
            return
        self.cache.reorder_cache(rows)  # of beam search: the one selection that every kind of cache layer has
        if self.mask is not None:
            self.mask = self.mask[rows]

    def next(self, tokens_R: Tensor) -> Tensor:
        """(R, V) logits after one more token in every row."""
        if self.cache is None:
            self.ids = torch.cat([self.ids, tokens_R[:, None]], dim=1)
        else:
            self.ids = tokens_R[:, None]
            if self.mask is not None:
                self.mask = pad(self.mask, (0, 1), value=1)
        return self._decoder.logits(self)


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(B, P) token ids padded on the left, and their mask."""
    longest = max(map(len, prompts))
    ids_BP, mask_BP = torch.zeros(2, len(prompts), longest, dtype=torch.long)
    for at, prompt in enumerate(prompts):
        ids_BP[at, longest - len(prompt) :] = torch.from_numpy(np.array(prompt))
        mask_BP[at, longest - len(prompt) :] = 1
    return ids_BP, mask_BP
