"""What both engines share: which tokens end a response, what they refuse, and how a response is put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasoner.config import mistake_of_temperature
from reasoner.errors import SamplerError
from reasoner.parsing import read_model_json
from reasoner.records import FinishReason, Prompt, Response, SamplingParams


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


def build_response(
    tokenizer: Any,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish: FinishReason,
    stop: Sequence[str],
    version: int,
) -> Response:
    """A response from what was generated: (T,) token ids and their log-probabilities."""
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ends = [at for at in (text.find(string) for string in stop) if at >= 0]
    return Response(
        text=text[: min(ends)] if ends else text,
        token_ids=tuple(token_ids),
        policy_mask=(True,) * len(token_ids),
        sampler_logprobs=tuple(logprobs),
        finish_reason=finish,
        policy_version=version,
    )
