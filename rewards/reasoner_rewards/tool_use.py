"""The reward source `tool_use`: whether a response calls its tools as it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reasoner import Problem, Response, Score, reward


class ToolUseOptions(BaseModel):
    """Options of `tool_use`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(default=0, ge=0)
    """calls that a response must make; with fewer the value is 0"""
    most: int | None = Field(default=None, ge=0)
    """calls that a response may make; with more the value is 0"""
    answers: tuple[str, ...] = ("\\boxed{", "####", "<answer>")
    """texts of which each marks an answer in a turn, after which no call may follow"""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most = {self.most} is below least = {self.least}")
        return self


@reward("tool_use", timeout_s=1.0, needs_answer=False, aspect="text")
def tool_use(problem: Problem, response: Response, *, options: ToolUseOptions) -> Score | None:
    """The share of a response's tool calls that are well-formed; 0 where it breaks one of the other rules.

    A call is well-formed when it can be read, names a tool, and its arguments fit; what the tool then makes of it does
    not count. The other rules: at least `least` calls, at most `most`, and none after the answer, which a later turn
    would only dress up. Without any call the value is 1 unless `least` asks for some.

    It does not apply to responses without tools. Whether the answer is right is not looked at: keep the weight below
    that of correctness, or make it a gate.

    Parts: `calls`, `malformed`, and `broken`, the rules that were broken.
    """
    if response.report is None:
        return None
    calls = [call for turn in response.turns for call in turn.calls]
    malformed = sum(bool(call.error) for call in calls)
    broken = [
        rule
        for rule, holds in (
            ("fewer calls than least", len(calls) < options.least),
            ("more calls than most", options.most is not None and len(calls) > options.most),
            ("a call after the answer", _calls_after_answer(response, options.answers)),
        )
        if holds
    ]
    value = 0.0 if broken else 1.0 - malformed / max(len(calls), 1)
    return Score(value, {"calls": len(calls), "malformed": malformed, "broken": broken}, "; ".join(broken))


def _calls_after_answer(response: Response, answers: Sequence[str]) -> bool:
    """Whether a turn with a call follows one with an answer."""
    answered = False
    for turn in response.turns:
        if turn.role == "assistant":
            if answered and turn.calls:
                return True
            answered = answered or any(mark in turn.text for mark in answers)
    return False
