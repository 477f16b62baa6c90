r"""Finds the final answer of a response: after `</think>`, in the last `\boxed{}` or `<answer>`, or the last line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MOST = 20_000
"""characters; a longer answer is none: scorers parse what they are given"""

Extract = Literal["auto", "boxed", "answer", "last_line", "all"]

_BOX = "\\boxed{"
_BRACE = re.compile(r"[{}]")
_OPEN, _CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer, how it was found, or why there is none."""

    text: str | None
    method: Literal["boxed", "answer", "last_line", "all", "none"]
    problem: str = ""


def final_answer(text: str, extract: Extract) -> Answer:
    r"""The final answer; a box or tag that is not closed holds none, and nothing weaker is tried instead.

    `auto`: the last `\boxed{}` or `<answer>`, whichever begins later; without either the last line.
    """
    text = text.rpartition("</think>")[2]
    if "<think>" in text:
        return Answer(None, "none", "the think block is not closed")
    box = text.rfind(_BOX) if extract in ("auto", "boxed") else -1
    tag = text.rfind(_OPEN) if extract in ("auto", "answer") else -1
    if box > tag:
        return _make_answer(_braced_text(text[box + len(_BOX) :]), "boxed", "the box is not closed")
    if tag >= 0:
        content, closing, _ = text[tag + len(_OPEN) :].partition(_CLOSE)
        return _make_answer(content if closing else None, "answer", "the <answer> is not closed")
    if extract in ("boxed", "answer"):
        return Answer(None, "none", "there is no " + (_OPEN if extract == "answer" else _BOX + "}"))
    text = text.strip()
    if extract == "all":
        return _make_answer(text, "all", "")
    return _make_answer(text.rpartition("\n")[2], "last_line", "")


def _make_answer(content: str | None, method: Literal["boxed", "answer", "last_line", "all"], unclosed: str) -> Answer:
    if content is None:
        return Answer(None, method, unclosed)
    if len(content) > MOST:
        return Answer(None, method, f"the answer is longer than {MOST} characters")
    return Answer(content.strip(), method) if content.strip() else Answer(None, method, "the answer is empty")


def _braced_text(text: str) -> str | None:
    """What stands before the brace that closes; None: none does."""
    depth = 1
    for brace in _BRACE.finditer(text):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[: brace.start()]
    return None
