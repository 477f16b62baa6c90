"""The reward source `think_format`: one thinking block, then an answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from reasoner import Problem, Response, Score, reward
from reasoner_rewards.answer_text import says_something


class ThinkFormatOptions(BaseModel):
    """Options of `think_format`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open: str = "<think>"
    """what opens the block; empty: the chat template opens it, with a mark that the text lacks (docs/tasks.md)"""
    close: str = Field(default="</think>", min_length=1)
    """what closes it"""
    require_answer: bool = True
    """whether something must follow the block"""

    @field_validator("close")
    @classmethod
    def _differs(cls, close: str, info: ValidationInfo) -> str:
        opening = info.data.get("open")
        if opening and (opening in close or close in opening):
            raise ValueError(f"it must not contain, or be part of, what opens the block ({opening!r})")
        return close


@reward("think_format", timeout_s=2.0, needs_answer=False, aspect="form")
def think_format(problem: Problem, response: Response, *, options: ThinkFormatOptions) -> Score:
    """1.0 if the response is one closed thinking block and then an answer, else 0.0.

    White space may precede the block. A block that is missing, empty, nested, repeated or not closed gives 0, and so
    does an answer that is missing (`require_answer`); the note says which. Empty means without a letter, number, symbol
    or bracket: neither `...` nor zero-width characters fill a block. Neither the thinking nor the answer is judged:
    combine it with a source that does, or a policy learns to write the tags and nothing else.

    Parts: `thinking` and `answer`, the characters of each (0 when the format is broken).
    """
    thinking, answer, note = _split(response.text, options)
    if not note and not says_something(thinking):
        note = "the thinking block is empty"
    if not note and options.require_answer and not says_something(answer):
        note = "nothing follows the thinking block"
    lengths = (0, 0) if note else (len(thinking.strip()), len(answer.strip()))
    return Score(float(not note), {"thinking": lengths[0], "answer": lengths[1]}, note)


def _split(text: str, options: ThinkFormatOptions) -> tuple[str, str, str]:
    """Thinking, answer, and what is wrong with the block."""
    begun = text.lstrip()
    if not begun.startswith(options.open):
        return "", "", f"the response does not start with {options.open}"
    inner, closed, answer = begun[len(options.open) :].partition(options.close)
    if not closed:
        return "", "", "the thinking block is not closed"
    if options.open and options.open in inner:
        return "", "", f"{options.open} inside the thinking block"
    if (options.open and options.open in answer) or options.close in answer:
        return "", "", "more than one thinking block"
    return inner, answer, ""
