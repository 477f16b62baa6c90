"""Fenced blocks of a Markdown text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_OPENING = re.compile(r"(?P<before>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(?P<fence>`{3,}|~{3,})(?P<info>.*)")
"""behind white space, or the mark of a list's item"""
_LABEL = re.compile(r"[\s{.]*([^\s{}:,;=]*)")
"""the first word of what follows a fence: `python`, `{.python .numberLines}`, `python:main.py`"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    label: str
    """in lower case; empty: none"""
    text: str | None
    """what it holds, without the indentation of its fence; None: it is not closed"""


def fenced(text: str) -> Iterator[Block]:
    """All fenced blocks, in their order, as CommonMark reads them.

    A block ends at the next line that is nothing but a fence of the same mark, at least as long; so a shorter one, or
    one of the other mark, does not end it. A line with text between two fences (```` ```x``` ````) opens none.
    """
    lines: list[str] = []
    opened: re.Match[str] | None = None
    for line in text.split("\n"):
        if opened is None:
            match = _OPENING.fullmatch(line.rstrip())
            if match and not (match["fence"][0] == "`" and "`" in match["info"]):
                opened, lines = match, []
        elif _closes(line, opened["fence"]):
            yield Block(_label(opened), "\n".join(_dedent(lines, len(opened["before"]))))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        yield Block(_label(opened), None)


def blocks(text: str, labels: Collection[str]) -> Iterator[str | None]:
    """The contents of the blocks with one of these labels (`""`: none), in their order; None: it is not closed."""
    return (block.text for block in fenced(text) if block.label in labels)


def _closes(line: str, fence: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(fence) and not bare.strip(fence[0])


def _label(opened: re.Match[str]) -> str:
    match = _LABEL.match(opened["info"])
    return match[1].lower() if match else ""


def _dedent(lines: list[str], width: int) -> list[str]:
    """Without the white space that all lines have in common, at most as much as stands before the fence."""
    common = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[min(width, common) :] if line.strip() else line for line in lines]
