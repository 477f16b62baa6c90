"""Fenced blocks of a Markdown text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

FENCE = "```"


def blocks(text: str, labels: Collection[str]) -> Iterator[str | None]:
    """The contents of the blocks with one of these labels (`""`: none), in their order; None: it is not closed.

    A block ends at the next line that is a bare fence, so a fence inside a fence ends it.
    """
    lines: list[str] | None = None
    wanted = False
    for line in text.split("\n"):
        bare = line.strip()
        if lines is None and bare.startswith(FENCE):
            lines, wanted = [], bare.removeprefix(FENCE).strip().lower() in labels
        elif lines is not None and bare == FENCE:
            if wanted:
                yield "\n".join(lines)
            lines = None
        elif lines is not None:
            lines.append(line)
    if lines is not None and wanted:
        yield None
