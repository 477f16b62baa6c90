"""What both engines share: which tokens end a response, what they refuse, and how a response is put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reasoner.config import mistake_of_temperature
from reasoner.data.prompts.thinking import MARKS, opened_at_end
from reasoner.distributed.seeds import derive_seed
from reasoner.errors import DataError, SamplerError
from reasoner.io.parsing import read_model_json
from reasoner.records import Prompt, SamplingParams
from reasoner.sampling.base import TokenRequest

NOT_FINITE = (
    "the model's logits are not finite: its weights hold NaN or infinite numbers, or overflow in this number format "
    "(model.dtype)"
)
LONGEST_PATTERN = 64
"""most tokens of which a repetition is found (`SamplingParams.stop_repetition`)"""
_TEMPLATE_END = 32
"""tokens at the end of a prompt in which the mark and the space after it are looked for"""


def end_tokens(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The ids with which a model ends a response: those of the generation configuration (else of the model's) and the
    tokenizer's own."""
    tokens = _eos(folder / "generation_config.json") or _eos(folder / "config.json")
    if tokenizer.eos_token_id is not None:
        tokens.add(tokenizer.eos_token_id)
    return tuple(sorted(tokens))


def all_end_tokens(own: Collection[int], params: SamplingParams) -> frozenset[int]:
    """The ids that end a response: the model's own, and those of the parameters.

    Raises:
        SamplerError: there are none, and no stop string either, so that every response would run to its limit.
    """
    tokens = frozenset(own) | frozenset(params.end_tokens)
    if not tokens and not params.stop:
        raise SamplerError(
            "the model has no end token, and its chat template writes nothing after a response: set eos_token_id (one "
            "id or a list) in its generation_config.json, or sampling.stop"
        )
    return tokens


def _eos(file: Path) -> set[int]:
    value = read_model_json(file).get("eos_token_id") if file.is_file() else None
    if value is None:
        return set()
    tokens = value if isinstance(value, list) else [value]
    if not all(type(id_) is int for id_ in tokens):
        raise DataError(f"{file}: eos_token_id must be a token's id or a list of them, got {str(value)[:60]!r}.")
    return set(tokens)


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


def repeats(token_ids: Sequence[int], times: int) -> bool:
    """Whether the token ids end in the same `LONGEST_PATTERN` tokens or fewer, so many times in a row."""
    for length in range(1, min(LONGEST_PATTERN, len(token_ids) // times) + 1):
        if token_ids[-1] == token_ids[-1 - length]:
            tail = token_ids[-length * times :]
            if tail[length:] == tail[:-length]:
                return True
    return False


def still_sampling(what: str) -> str:
    """The reason why an engine that samples refuses a call."""
    return f"this sampler is still sampling, and was asked for {what}: finish or close the iterator of groups first"


def check_tokens(requests: Sequence[TokenRequest], running: Collection[int], max_model_len: int) -> None:
    """Refuse requests that an engine would not take.

    Raises:
        SamplerError: an id is running already, or the tokens leave no room for what is asked for.
    """
    for request in requests:
        if request.id in running:
            raise SamplerError(f"request {request.id} is running already; this is a bug")
        most = max_model_len - request.params.max_tokens
        if not 0 < len(request.token_ids) <= most or request.n < 1 or request.params.max_tokens < 1:
            raise SamplerError(
                f"{request.n} continuations of {len(request.token_ids)} tokens with max_tokens = "
                f"{request.params.max_tokens}: this engine takes 1 to {most} tokens, and at least one continuation of "
                "at least one token"
            )


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


def opened_block(tokenizer: Any, prompt_ids: Sequence[int]) -> str:
    """The thinking block that the chat template has opened for the response: `<think>` (or another mark) and the space
    after it, or nothing."""
    end = tokenizer.decode(prompt_ids[-_TEMPLATE_END:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return opened_at_end(end)


def response_text(
    tokenizer: Any, token_ids: Sequence[int], stop: Sequence[str], opened: str, ends: Collection[int]
) -> str:
    """What a policy wrote, as text.

    Args:
        token_ids: at least one.
        stop: strings before which the text is cut.
        opened: the thinking block that the prompt ends in (`opened_block`). It goes in front of the text, so that a
            verifier sees thinking that was never closed.
        ends: ids that end a response. The last token is no text if it is one of them, special or not.
    """
    text = _decode(tokenizer, token_ids[:-1] if token_ids[-1] in ends else token_ids)
    cuts = [at for at in (text.find(string) for string in stop) if at >= 0]
    return opened + (text[: min(cuts)] if cuts else text)


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Without special tokens, except for the marks of thinking: some tokenizers count these among them."""
    ids = np.asarray(token_ids)
    kept = ids[~np.isin(ids, _dropped(tokenizer))].tolist()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=8)
def _dropped(tokenizer: Any) -> list[int]:
    """Ids of the special tokens, without the marks of thinking.

    The tokens that the tokenizer names (`all_special_ids`) are not all that decoding counts as special.
    """
    special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {id_: tokenizer.convert_ids_to_tokens(id_) for id_ in tokenizer.all_special_ids}
    return [id_ for id_, text in (special | named).items() if text not in MARKS]
