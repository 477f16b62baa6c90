"""The reward source `boxed_format`: a finished response with one boxed answer at its end."""

from __future__ import annotations

import re

from reasoner import Problem, Response, Score, after_thinking, reward
from reasoner_rewards.answer_text import says_something
from reasoner_rewards.extraction import last_box

MAX_BOX_CHARS = 64
"""characters in the box: it holds an answer, not a solution"""
MAX_TAIL_CHARS = 64
"""characters after the box: a closing word, not another problem"""

_SILENT = re.compile(
    r"\\(?:[,;:!> ]|(?:q?quad|left|right|displaystyle|mbox|text(?:bf|it|rm|sf|tt|normal)?|"
    r"math(?:rm|bf|it|sf|tt|bb|cal|normal))(?![A-Za-z])|(?:[hv]space\*?|[hv]?phantom)\s*\{[^{}]*\})|(?<!\\)[{}$~]"
)
"""LaTeX that shows nothing: spaces, styles, and braces and dollars that are not escaped"""


@reward("boxed_format", timeout_s=2.0, needs_answer=False, aspect="form")
def boxed_format(problem: Problem, response: Response) -> Score:
    r"""1.0 if the response finished and gives exactly one short `\boxed{}` at its end, after any think block, else 0.0.

    Finished and boxed count only together. Measured with a 135M model: rewarded for finishing alone, GRPO collapses
    within three steps onto answers of nine tokens, all finished, none boxed, and no differences left to learn from. A
    box alone is no better: a text that runs to the token limit would be paid for a box somewhere in it.

    The box must show something (a letter, a number, a symbol; `?`, `...` and `\text{}` are empty) and be at most
    `MAX_BOX_CHARS` long, with at most `MAX_TAIL_CHARS` characters after it.
    Whether the answer is right is not looked at: that is `math`. Nor is what stands before the box, or in the thinking:
    a text that repeats itself, boxes in its thinking included, is for `repetition`.
    """
    note = _missing_note(response)
    return Score(float(not note), {"finished": response.finish_reason == "stop"}, note)


def _missing_note(response: Response) -> str:
    if response.finish_reason != "stop":
        return f"not finished (finish reason {response.finish_reason!r})"
    text = after_thinking(response.text)
    if text is None:
        return "the think block is not closed"
    count, box = last_box(text)
    if count != 1 or box is None:
        return f"{count} boxes instead of one"
    if box.content is None:
        return "the box has no closed braces"
    if not says_something(_SILENT.sub(" ", box.content)):
        return "the box is empty"
    if len(box.content) > MAX_BOX_CHARS:
        return f"the box is longer than {MAX_BOX_CHARS} characters"
    return "" if len(box.tail.strip()) <= MAX_TAIL_CHARS else f"more than {MAX_TAIL_CHARS} characters follow the box"
