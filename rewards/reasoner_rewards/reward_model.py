"""The reward source `reward_model`: a Hugging Face sequence-classification model scores the conversation."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reasoner import MissingDependencyError, Problem, Response, Score, reward

Device = Literal["auto", "cpu", "cuda"]
RewardModelDtype = Literal["float32", "bfloat16", "float16"]
NOT_INSTALLED = "torch and transformers are needed and not installed: `pip install 'reasoner[train]'`"
MAX_NAMED = 5
"""conversations that an error message names"""
ENDING_S = 10.0
"""seconds for a thread that has nothing left to do"""


class RewardModelOptions(BaseModel):
    """Options of `reward_model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    """a folder, or a name on the Hugging Face hub, of a sequence-classification model with one or two labels"""
    device: Device = "auto"
    """`auto`: cuda when torch sees a CUDA device, otherwise cpu"""
    dtype: RewardModelDtype = "float32"
    """of its weights"""
    batch_tokens: int = Field(default=8192, gt=0)
    """tokens per forward, padding included; a longer conversation goes alone"""
    max_length: int | None = Field(default=None, gt=0)
    """tokens of a conversation at most; unset: as many positions as the model has"""
    too_long: Literal["error", "truncate"] = "error"
    """what happens to longer ones: the call fails, or tokens are left out at their beginning"""
    two_labels: Literal["difference", "probability"] = "difference"
    """value of a model with two labels: the second logit minus the first, or the second label's probability"""


def _preflight(options: RewardModelOptions) -> str:
    """Which model on which device; torch and transformers, which are slow to import, must be installed."""
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        raise MissingDependencyError(NOT_INSTALLED)
    return f"{options.model} ({options.dtype}), device {options.device}"


# The first call of a worker imports torch and loads the model: minutes for a large one.
@reward(
    "reward_model",
    timeout_s=600.0,
    granularity="batch",
    workers=1,
    limit_memory=False,
    preflight=_preflight,
    needs_answer=False,
    aspect="text",
)
def reward_model(
    problems: Sequence[Problem], responses: Sequence[Response], *, options: RewardModelOptions
) -> list[Score | ValueError]:
    """What a reward model says of the problem's conversation, continued by the response as the assistant's turn.

    One label: its logit. Two: the difference of the logits, or the probability of the second. The conversation is
    written with the chat template of the model's own tokenizer. Special tokens that a response spells out are left
    out of it: it cannot end its turn and go on as somebody else.

    A value does not depend on what it is batched with, beyond rounding (1e-5 in float32; in a half-precision dtype
    rounding is coarse). The model is loaded once per worker and stays on the device.

    Parts: `tokens` of the conversation, `truncated`.

    Raises:
        ValueError: the model or its tokenizer cannot do this; in the place of a conversation that is too long.
        MissingDependencyError: torch or transformers is not installed.
    """
    scorer = _load(options.model, options.device, options.dtype)
    limit = min(options.max_length or scorer.positions, scorer.positions)
    whole = [scorer.token_ids(problem, response) for problem, response in zip(problems, responses, strict=True)]
    refused = {index for index, ids in enumerate(whole) if len(ids) > limit and options.too_long == "error"}
    read = [index for index in range(len(whole)) if index not in refused]
    ids = [whole[index][-limit:] for index in read]
    values = scorer.values(ids, options.batch_tokens, options.two_labels)
    scores: dict[int, Score | ValueError] = {
        index: Score(value, {"tokens": len(used), "truncated": len(used) < len(whole[index])})
        for index, value, used in zip(read, values, ids, strict=True)
    }
    # alone: a response that is too long must not take the others of its batch out of the update with it
    scores |= {index: _length_error(problems[index], len(whole[index]), limit) for index in refused}
    return [scores[index] for index in range(len(whole))]


def _length_error(problem: Problem, tokens: int, limit: int) -> ValueError:
    return ValueError(
        f"the conversation of {problem.id} has {tokens} tokens, more than {limit}. Raise max_length if the model has "
        "more positions, sample shorter responses, or set too_long = 'truncate'."
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Scorer:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any
    device: str
    positions: int
    """tokens that the model can read"""
    pad: int | None
    """token that fills a batch up on the right; None: the model does not know one, so that each row goes alone"""
    specials: re.Pattern[str]
    """spellings of the tokenizer's special tokens"""

    def token_ids(self, problem: Problem, response: Response) -> list[int]:
        """The conversation as the model was trained to read it."""
        turns = [{"role": message.role, "content": message.content} for message in problem.messages]
        turns.append({"role": "assistant", "content": self._plain(response.text)})
        return list(self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))

    def values(self, ids: Sequence[Sequence[int]], batch_tokens: int, two_labels: str) -> list[float]:
        """(R,) one value per conversation, in their order."""
        values = [0.0] * len(ids)
        most = 1 if self.pad is None else len(ids)
        for batch in _batches([len(id_) for id_ in ids], batch_tokens, most):
            for index, value in zip(batch, self._forward([ids[index] for index in batch], two_labels), strict=True):
                values[index] = value
        return values

    def _plain(self, text: str) -> str:
        count = 1
        while count:  # what is left may spell another one
            text, count = self.specials.subn("", text)
        return text

    def _forward(self, ids: Sequence[Sequence[int]], two_labels: str) -> list[float]:
        import torch

        longest, pad = max(map(len, ids)), self.pad or 0
        ids_RT = torch.tensor([[*id_, *[pad] * (longest - len(id_))] for id_ in ids], device=self.device)
        mask_RT = torch.tensor([[1] * len(id_) + [0] * (longest - len(id_)) for id_ in ids], device=self.device)
        with torch.inference_mode():
            logits_RL = self.model(input_ids=ids_RT, attention_mask=mask_RT).logits.float()
        if logits_RL.shape[1] == 1:
            values_R = logits_RL[:, 0]
        else:
            values_R = logits_RL[:, 1] - logits_RL[:, 0]
            if two_labels == "probability":
                values_R = values_R.sigmoid()
        return [float(value) for value in values_R.tolist()]


def _batches(lengths: Sequence[int], batch_tokens: int, most: int) -> Iterator[list[int]]:
    """Indices, longest first, in batches of at most `most` rows and `batch_tokens` tokens with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == most or lengths[batch[0]] * (len(batch) + 1) > batch_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@cache
def _load(name: str, device: Device, dtype: RewardModelDtype) -> _Scorer:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependencyError(NOT_INSTALLED) from error

    logging.disable_progress_bar()  # it would leave a thread in the worker
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    before = set(threading.enumerate())
    model, report = AutoModelForSequenceClassification.from_pretrained(
        name, dtype=getattr(torch, dtype), output_loading_info=True, trust_remote_code=False, use_safetensors=True
    )
    for thread in set(threading.enumerate()) - before:
        thread.join(ENDING_S)  # those that have read the weights; a worker with threads is replaced after the call
    _check(name, model, tokenizer, report)
    config = model.config.get_text_config()
    config.use_cache = False
    positions = min(getattr(config, "max_position_embeddings", None) or sys.maxsize, tokenizer.model_max_length)
    return _Scorer(model.to(device).eval(), tokenizer, device, positions, config.pad_token_id, _specials(tokenizer))


def _check(name: str, model: Any, tokenizer: Any, report: Any) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"model {name!r} has no trained weights for {', '.join(missing[:MAX_NAMED])}: it is not a reward model. "
            "Name one that was saved as a sequence-classification model."
        )
    if model.config.num_labels not in (1, 2):
        raise ValueError(f"model {name!r} must have one or two labels, got {model.config.num_labels}")
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {name!r} has no chat template, so that a conversation cannot be written for it; put a "
            "chat_template.jinja into the model's folder"
        )


def _specials(tokenizer: Any) -> re.Pattern[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    spellings = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spellings)) or r"(?!)")
