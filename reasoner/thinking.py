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
    found = _OPENED.search(text)
    return found.group() if found else ""


def closed_at_end(text: str) -> str:
    """The empty thinking block that the text ends with, with the white space after it; or nothing."""
    found = _CLOSED.search(text)
    return found.group() if found else ""


def parts(text: str) -> list[str]:
    """What is between the marks, without white space around it and without empty parts."""
    return [part.strip() for part in _ANY.split(text) if part.strip()]
