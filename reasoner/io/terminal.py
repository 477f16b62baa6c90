"""The terminal as every command and view writes to it: nothing that others wrote can steer it.

Text reaches a console from run folders, data, models and plugins. What rich itself takes for instructions
(`[link=...]`, `:smile:`) is off, and control characters are made visible where text becomes output, after everything
else: no place that prints has to think of it. Colours and cursor movements that rich adds pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from reasoner.io.safe_text import printable


class SafeConsole(Console):
    """A console that shows text as it is."""

    def __init__(
        self, file: TextIO | None = None, *, stderr: bool = False, width: int | None = None, plain: bool = False
    ) -> None:
        """`plain`: without colours, whatever `file` is."""
        super().__init__(
            file=file,
            stderr=stderr,
            width=width,
            color_system=None if plain else "auto",
            force_terminal=False if plain else None,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's, with printable text in its segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
