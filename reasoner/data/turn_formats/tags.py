"""Calls between tags: `<tool>calculator 17 * 23</tool>`, and results between others: `<result>391</result>`."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.data.turn_formats.arguments import ToolInputs, limited, read_object
from reasoner.data.turn_formats.text_format import TextFormat
from reasoner.records import ToolCall, ToolDescription

_OPEN, _CLOSE = "<tool>", "</tool>"


class TagsFormat(TextFormat):
    """See the module: the first word is the tool's name, and the rest its input."""

    name = "tags"
    stop = (_CLOSE,)

    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        *closed, rest = text.split(_CLOSE)
        calls = [self._call(part) for part in closed]
        if _OPEN in rest:
            calls.append(ToolCall("", error=f"the call is not closed: write {_CLOSE} after it"))
        return limited(calls)

    def _call(self, part: str) -> ToolCall:
        """The call at the end of what comes before a closing tag."""
        _, opened, body = part.rpartition(_OPEN)
        if not opened:
            return ToolCall("", error=f"{_CLOSE} closes nothing: write {_OPEN} before the tool's name")
        body = body.strip()
        if body.startswith("{"):
            value, error = read_object(body)
            return ToolCall("", error=f"the call is {error}") if error else self.inputs.named_call(value)
        name = body.split(maxsplit=1)[0] if body else ""
        return self.inputs.call(name, body[len(name) :])

    def result(self, content: str) -> str:
        return f"<result>{content}</result>"

    def inline(self, content: str) -> str:
        return f"{self.result(content)}\n"


def tags_instructions(tools: Sequence[ToolDescription]) -> str:
    """What the policy is told of the tools."""
    return ToolInputs(tools).instructions(
        f"{_OPEN}, its name, its input, and {_CLOSE}. Its result follows between <result> and </result>.",
        lambda name, text: f" {_OPEN}{name} {text}{_CLOSE}",
    )
