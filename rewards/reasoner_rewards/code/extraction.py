"""The program in a response."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from typing import Literal

from reasoner import after_thinking
from reasoner_rewards.code.bindings import bound_names
from reasoner_rewards.fences import fenced

CodeExtract = Literal["fenced", "all"]
PROMPT = ">>>"
"""what a session in the interpreter begins with"""
MAX_EXAMPLE = 2**14
"""characters of a block that only shows how a program is used; a longer one is not looked into"""


def program_in(
    text: str, extract: CodeExtract, labels: Sequence[str], names: Collection[str] = ()
) -> tuple[str | None, str]:
    """The program, None where there is none; and why, or which block it is where it is not the last that could be.

    It is a fenced block (`fenced`), or all that follows the thinking (`all`). Of the blocks it is the last one in the
    task's language: with one of the labels, or, where there is none of those and `""` is among the labels, without a
    label. Blocks after it that bind none of `names` only show how it is used, unless there is none that does. A last
    block that is not closed, as in a response that was cut, decides: no earlier one is taken.

    Args:
        names: what the tests call; empty: the last block is taken as it is.
    """
    answer = after_thinking(text)
    if answer is None:
        return None, "no program: the think block is not closed"
    if extract == "all":
        return (answer, "") if answer.strip() else (None, "no program: there is no answer")
    candidates = [block for block in fenced(answer) if block.label in labels]
    if not candidates:
        return None, "no program: there is no fenced block"
    if candidates[-1].text is None:
        return None, "no program: the last fenced block is not closed"
    texts = [block.text for block in candidates if block.label and block.text is not None]
    texts = texts or [block.text for block in candidates if block.text is not None]
    if len(texts) == 1:
        return texts[0], ""
    chosen = next((index for index in reversed(range(len(texts))) if not _only_uses(texts[index], names)), None)
    if chosen is None or chosen == len(texts) - 1:
        return texts[-1], ""
    return texts[chosen], f"block {chosen + 1} of {len(texts)}: those after it define nothing that is tested"


def _only_uses(text: str, names: Collection[str]) -> bool:
    """Whether a block is Python, or a session in the interpreter, that binds none of the names.

    One that is not Python is a program with a mistake: it was meant to be the last one.
    """
    if text.lstrip().startswith(PROMPT):
        return True
    if not names or len(text) > MAX_EXAMPLE:
        return False
    try:
        return bound_names(ast.parse(text)).isdisjoint(names)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
