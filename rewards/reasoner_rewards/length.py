"""The reward source `length`: a value that falls with the length of a response."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from reasoner import Problem, Response, Score, reward

LengthShape = Literal["soft_overlong", "cosine"]
OWNERS: dict[str, LengthShape] = {"cache_tokens": "soft_overlong", "shortest": "cosine", "longest": "cosine"}
"""option -> the kind that reads it"""


class LengthOptions(BaseModel):
    """Options of `length`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: LengthShape = "soft_overlong"
    """the curve"""
    max_tokens: int = Field(gt=0)
    """tokens per response at which the curve ends; usually `sampling.max_tokens`"""
    cache_tokens: int | None = Field(default=None, gt=0)
    """`soft_overlong`: tokens before `max_tokens` over which the value falls; unset: a fifth of it, as in the paper"""
    shortest: float | None = Field(default=None, allow_inf_nan=False, validate_default=True)
    """`cosine`: value at length 0"""
    longest: float | None = Field(default=None, allow_inf_nan=False, validate_default=True)
    """`cosine`: value at `max_tokens` and beyond"""

    @field_validator(*OWNERS)
    @classmethod
    def _belongs_to_kind(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind, owner = info.data.get("kind"), OWNERS[str(info.field_name)]
        if kind is None:
            return value
        if value is not None and kind != owner:
            raise ValueError(f"kind = {kind!r} does not read it; it belongs to {owner!r}")
        if value is None and kind == owner == "cosine":
            raise ValueError("kind = 'cosine' needs it")
        return value

    @field_validator("cache_tokens")
    @classmethod
    def _fits(cls, cache_tokens: int | None, info: ValidationInfo) -> int | None:
        if cache_tokens is not None and cache_tokens > info.data.get("max_tokens", cache_tokens):
            raise ValueError(f"it is more than max_tokens = {info.data['max_tokens']}")
        return cache_tokens


@reward("length", timeout_s=1.0, needs_answer=False, aspect="text")
def length(problem: Problem, response: Response, *, options: LengthOptions) -> Score:
    """A value for the number L of tokens that the policy wrote; whether the answer is right is not looked at.

    `soft_overlong` (DAPO, arXiv 2503.14476, eq. 13) is 0 up to `max - cache`, then falls in a straight line,

        (max - cache - L) / cache

    to -1 at `max`, and is -1 beyond. It spares a long response the cliff of the token limit.

    `cosine` (arXiv 2502.03373) goes from `shortest` at L = 0 to `longest` at L = `max` and beyond:

        longest + (shortest - longest) (1 + cos(pi L / max)) / 2

    The paper has one curve for right answers, one for wrong ones, and a fixed penalty at the limit. A source does not
    see what others said, so this is one curve: `when = "math"` applies it to right answers only, as the paper's first.
    Its penalty at the limit is `soft_overlong`.

    Without `when`, paying for shortness pays for empty answers, and paying for length pays for filler: keep the weight
    below that of correctness, and see `repetition`.

    Parts: `tokens`, L.
    """
    tokens = sum(response.policy_mask)
    value = _soft_overlong(tokens, options) if options.kind == "soft_overlong" else _cosine(tokens, options)
    return Score(value, {"tokens": tokens})


def _soft_overlong(tokens: int, options: LengthOptions) -> float:
    cache = options.cache_tokens or max(1, options.max_tokens // 5)
    free = options.max_tokens - cache
    return min(0.0, max(-1.0, (free - tokens) / cache))


def _cosine(tokens: int, options: LengthOptions) -> float:
    assert options.shortest is not None
    assert options.longest is not None
    share = min(1.0, tokens / options.max_tokens)
    return options.longest + (options.shortest - options.longest) * (1 + math.cos(math.pi * share)) / 2
