"""The program in a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from reasoner_rewards.answer_text import after_thinking
from reasoner_rewards.fences import blocks

Extract = Literal["fenced", "all"]


def program_in(text: str, extract: Extract, labels: Sequence[str]) -> tuple[str | None, str]:
    """The program, and why there is none.

    It is what the last fenced block with one of the labels holds (`fenced`), or all that follows the thinking (`all`).
    A last block that is not closed, as in a response that was cut, decides: no earlier one is searched.
    """
    answer = after_thinking(text)
    if answer is None:
        return None, "no program: the think block is not closed"
    if extract == "all":
        return (answer, "") if answer.strip() else (None, "no program: there is no answer")
    found = list(blocks(answer, labels))
    if not found:
        return None, "no program: there is no fenced block"
    if found[-1] is None:
        return None, "no program: the last fenced block is not closed"
    return found[-1], ""
