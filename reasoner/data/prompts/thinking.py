"""The marks between which models think, as their templates and tokenizers spell them.

They are part of what a model writes: they stay in a response's text where the tokenizer counts them among its special
tokens, and are no control tokens, which a message must not contain.
"""

from __future__ import annotations

import re

PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""what opens and what closes the thinking"""
MARKS = tuple(mark for pair in PAIRS for mark in pair)
_OPENED = re.compile(rf"(?:{'|'.join(re.escape(opening) for opening, _ in PAIRS)})\s*$")
_CLOSED = re.compile("|".join(rf"{re.escape(opening)}\s*{re.escape(closing)}\s*$" for opening, closing in PAIRS))
_ANY = re.compile("|".join(map(re.escape, MARKS)))


def opened_at_end(text: str) -> str:
    """The mark that the text ends with and the white space after it, where a thinking block is opened; or nothing."""
    match = _OPENED.search(text)
    return match.group() if match else ""


def closed_at_end(text: str) -> str:
    """The empty thinking block that the text ends with, with the white space after it; or nothing."""
    match = _CLOSED.search(text)
    return match.group() if match else ""


def parts(text: str) -> list[str]:
    """What is between the marks, without white space around it and without empty parts."""
    return [part.strip() for part in _ANY.split(text) if part.strip()]


def after_thinking(text: str) -> str | None:
    """What follows the thinking of a response, or the whole text where it has none; None: its thinking is not closed.

    The first mark decides between which pair the response thinks, and what follows the last closing mark of that pair
    counts: marks of other pairs are text, as in a program that removes them.
    """
    first = _ANY.search(text)
    if first is None:
        return text
    opening, closing = next(pair for pair in PAIRS if first.group() in pair)
    answer = text.rpartition(closing)[2]
    return None if opening in answer else answer
