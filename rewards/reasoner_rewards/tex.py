r"""TeX text without what TeX does not print: `\frac{ \hbar }{ 2 m }` is `\frac{\hbar}{2m}`, `x^{n}` is `x^n`.

For what cannot be understood as an expression: it is compared symbol by symbol.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|[^\s]", re.DOTALL)
MAX_DEPTH = 8
"""braces inside each other that are looked at"""

_SPACES = re.compile(r"\s+")


def symbols(text: str) -> tuple[str, ...]:
    """The symbols of a normalised text, without white space and without braces around a single symbol."""
    contents: list[str] = []
    opened: list[int] = []
    for token in _TOKEN.findall(text):
        if token == "{":
            opened.append(len(contents))
        elif token == "}" and 0 < len(opened) <= MAX_DEPTH and len(contents) - opened[-1] == 2:
            begin = opened.pop()
            contents[begin:] = contents[begin + 1 :]
            continue
        elif token == "}" and opened:
            opened.pop()
        contents.append(_SPACES.sub("", token) if token.startswith(r"\text") else token)
    return tuple(contents)
