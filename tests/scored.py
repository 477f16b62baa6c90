"""Calls a reward source as the scoring service does: options checked and completed, then one response."""

from __future__ import annotations

from typing import Any

from reasoner import Problem, Response, RewardSource, Score


def scored(source: RewardSource, text: str, answer: str = "", *, tokens: int = 1, **options: Any) -> Score:
    response = Response(text, (1,) * tokens, (True,) * tokens, (0.0,) * tokens, "stop", 0)
    result = source(Problem("p:1", (), answer), response, **source.check_options(options))
    assert isinstance(result, Score)
    return result
