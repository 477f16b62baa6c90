"""What both engines share: which tokens end a response, what they refuse, and how a response is put together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from reasoner.config import mistake_of_temperature
from reasoner.errors import SamplerError
from reasoner.parsing import read_model_json
from reasoner.records import FinishReason, Prompt, Response, SamplingParams

_MARKS = ("<think>", "</think>")
_OPENED = re.compile(r"<think>\s*$")
_TEMPLATE_END = 32
"""tokens at the end of a prompt in which the mark and the space after it are looked for"""


def end_tokens(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a response: those of the generation configuration (else of the model's) and the tokenizer's own.

    Raises:
        SamplerError: the model names none, so that every response would run to its limit.
    """
    found = _eos(folder / "generation_config.json") or _eos(folder / "config.json")
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if not found:
        raise SamplerError(
            f"the model in {folder} has no end token: set eos_token_id (one id or a list) in its generation_config.json"
        )
    return tuple(sorted(found))


def _eos(file: Path) -> set[int]:
    value = read_model_json(file).get("eos_token_id") if file.is_file() else None
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {value}


def check_request(prompts: Sequence[Prompt], n: int, params: SamplingParams, max_model_len: int) -> None:
    """Refuse what an engine cannot do.

    Raises:
        SamplerError: nothing to draw, a temperature that not every engine takes, or a prompt that leaves no room for
            its response.
    """
    if n < 1 or params.max_tokens < 1:
        raise SamplerError(
            f"at least one response of at least one token, got n = {n}, max_tokens = {params.max_tokens}"
        )
    if wrong := mistake_of_temperature(params.temperature):
        raise SamplerError(f"temperature {wrong}, got {params.temperature}")
    for prompt in prompts:
        if not 0 < len(prompt.token_ids) <= max_model_len - params.max_tokens:
            raise SamplerError(
                f"the prompt of problem {prompt.problem.id!r} has {len(prompt.token_ids)} tokens; with max_tokens = "
                f"{params.max_tokens} this engine takes 1 to {max_model_len - params.max_tokens}. Leave the problem "
                "out, or raise sampling.max_prompt_tokens"
            )


def opened_block(tokenizer: Any, prompt_ids: Sequence[int]) -> str:
    """The thinking block that the chat template has opened for the response: `<think>` and the space after it, or
    nothing."""
    end = tokenizer.decode(prompt_ids[-_TEMPLATE_END:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    found = _OPENED.search(end)
    return found.group() if found else ""


def build_response(
    tokenizer: Any,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish: FinishReason,
    stop: Sequence[str],
    version: int,
    opened: str = "",
) -> Response:
    """A response from what was generated: (T,) token ids and their log-probabilities.

    Args:
        opened: the thinking block that the prompt ends in (`opened_block`). It goes in front of the text, so that a
            verifier sees thinking that was never closed.
    """
    text = _decode(tokenizer, token_ids)
    ends = [at for at in (text.find(string) for string in stop) if at >= 0]
    return Response(
        text=opened + (text[: min(ends)] if ends else text),
        token_ids=tuple(token_ids),
        policy_mask=(True,) * len(token_ids),
        sampler_logprobs=tuple(logprobs),
        finish_reason=finish,
        policy_version=version,
    )


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Without special tokens, except for the marks of thinking: some tokenizers count these among them."""
    marks = _special_marks(tokenizer)
    parts: list[str] = []
    begin = 0
    for place in [place for place, token in enumerate(token_ids) if token in marks] if marks else ():
        parts += [_plain(tokenizer, token_ids[begin:place]), marks[token_ids[place]]]
        begin = place + 1
    return "".join([*parts, _plain(tokenizer, token_ids[begin:])])


def _plain(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=8)
def _special_marks(tokenizer: Any) -> dict[int, str]:
    """Token id -> text of the marks of thinking that decoding would drop."""
    special = set(tokenizer.all_special_ids)
    ids = dict(zip(tokenizer.convert_tokens_to_ids(list(_MARKS)), _MARKS, strict=True))
    return {id_: mark for id_, mark in ids.items() if id_ in special and tokenizer.convert_ids_to_tokens(id_) == mark}
