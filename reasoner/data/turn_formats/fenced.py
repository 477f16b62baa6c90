"""Calls in fenced blocks, as ToRA and ReTool write them:

    ```python
    print(17 * 23)
    ```
    ```output
    391
    ```

The policy writes up to ```` ```output ````, which ends its turn: the end of the block does not, because an answer can
have blocks of code too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reasoner.data.turn_formats.arguments import ToolInputs
from reasoner.data.turn_formats.text_format import TextFormat
from reasoner.records import ToolCall, ToolDescription

_FENCE = "```"
_OUTPUT = f"{_FENCE}output"


class _Block(NamedTuple):
    name: str
    text: str
    closed: bool
    last: bool
    """whether nothing but white space follows it"""


class FencedFormat(TextFormat):
    """See the module: the name of the block is that of the tool, and what is in it the tool's input."""

    name = "fenced"
    stop = (_OUTPUT,)

    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        before, asked, _ = text.partition(_OUTPUT)
        block = _last_block(before)
        if asked:
            return (self._parse_block(block),)
        if block is None or not block.last or block.name not in self.inputs.tools:
            return ()  # blocks within an answer are part of it
        return (self._parse_block(block),)

    def _parse_block(self, block: _Block | None) -> ToolCall:
        if block is None:
            return ToolCall("", error=f"no block before {_OUTPUT}: write {_FENCE} and the tool's name, then its input")
        if not block.closed:
            return ToolCall(block.name, error=f"the block is not closed: write {_FENCE} on a line of its own after it")
        return self.inputs.call(block.name, block.text)

    def result(self, content: str) -> str:
        return f"{_OUTPUT}\n{content}\n{_FENCE}"

    def inline(self, content: str) -> str:
        return f"\n{content}\n{_FENCE}\n"

    def unasked(self, text: str) -> str:
        return f"\n{_OUTPUT}{text}"


def _last_block(text: str) -> _Block | None:
    """The last fenced block of a text."""
    block: _Block | None = None
    name, lines = "", list[str]()
    is_open = False
    for line in text.split("\n"):
        stripped = line.strip()
        if is_open and stripped == _FENCE:
            block, is_open = _Block(name, "\n".join(lines), closed=True, last=True), False
        elif is_open:
            lines.append(line)
        elif stripped.startswith(_FENCE):
            name, lines, is_open = stripped[len(_FENCE) :].strip(), [], True
        elif stripped and block is not None:
            block = block._replace(last=False)
    return _Block(name, "\n".join(lines), closed=False, last=True) if is_open else block


def fenced_instructions(tools: Sequence[ToolDescription]) -> str:
    """What the policy is told of the tools."""
    return ToolInputs(tools).instructions(
        f"its input in a block with its name, and then {_OUTPUT}; its result follows.",
        lambda name, text: f"\n{_FENCE}{name}\n{text}\n{_FENCE}\n{_OUTPUT}",
    )
