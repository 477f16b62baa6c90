"""A call's name and arguments from its text, or in words that a model can learn from what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasoner.errors import nearest
from reasoner.io.parsing import parse_json
from reasoner.records import ToolCall, ToolDescription

_LONGEST_NAME = 64
"""characters of a name in a message"""


MOST_CALLS = 16
"""of one turn"""


def limited(calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """The first calls of a turn, and an error in place of the rest where there are too many."""
    if len(calls) <= MOST_CALLS:
        return tuple(calls)
    error = f"{len(calls)} calls in one turn are too many; the first {MOST_CALLS - 1} were made"
    return (*calls[: MOST_CALLS - 1], ToolCall("", error=error))


class ToolInputs:
    """The tools that there are, and how their input is written in plain text.

    A tool with one argument takes its text as it is, one with several a JSON object.
    """

    def __init__(self, tools: Sequence[ToolDescription]) -> None:
        self.tools = {tool.name: tool for tool in tools}

    def call(self, name: str, text: str) -> ToolCall:
        """The call of a tool with the text that was written as its input."""
        tool = self.tools.get(name)
        if tool is None:
            return ToolCall(name[:_LONGEST_NAME], error=self.unknown(name))
        names, text = list(_properties(tool)), text.strip()
        arguments, error = _object(text)
        if arguments is not None and (set(arguments) <= set(names) or len(names) != 1):
            return ToolCall(name, arguments)
        if len(names) == 1 and text:
            return _single(name, names[0], _properties(tool)[names[0]], text)
        if not text:
            required = tool.parameters.get("required", names)
            if not required:
                return ToolCall(name)
            error = "its input is empty"
        return ToolCall(name, error=f"{name}: {error}; write {self.example_input(tool)}")

    def named_call(self, value: object) -> ToolCall:
        """A call that is a JSON object with `name` and `arguments`, as most models write their own format."""
        if not isinstance(value, dict) or "name" not in value:
            return ToolCall("", error='a call is a JSON object with "name" and "arguments"')
        name = value["name"]
        if not isinstance(name, str):
            return ToolCall("", error=f'"name" must be the name of a tool, got {json.dumps(name)[:60]}')
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):  # a JSON text in the JSON text, as the interface of OpenAI has it
            arguments, error = _object(arguments)
            if arguments is None:
                return ToolCall(
                    name[:_LONGEST_NAME], error=f'{name[:_LONGEST_NAME]}: "arguments" must be a JSON object; {error}'
                )
        if name not in self.tools:
            return ToolCall(name[:_LONGEST_NAME], error=self.unknown(name))
        if not isinstance(arguments, dict):
            return ToolCall(name, error=f'{name}: "arguments" must be a JSON object, got {json.dumps(arguments)[:60]}')
        return ToolCall(name, arguments)

    def json_call(self, name: str, text: str) -> ToolCall:
        """A call whose arguments are a JSON object."""
        if name not in self.tools:
            return ToolCall(name[:_LONGEST_NAME], error=self.unknown(name))
        arguments, error = _object(text or "{}")
        if arguments is None:
            return ToolCall(name, error=f"{name}: {error}; write {self.example_object(self.tools[name])}")
        return ToolCall(name, arguments)

    def text_call(self, name: str, texts: Mapping[str, str]) -> ToolCall:
        """A call whose arguments are written one by one, text as it is, and all else as JSON."""
        tool = self.tools.get(name)
        if tool is None:
            return ToolCall(name[:_LONGEST_NAME], error=self.unknown(name))
        arguments: dict[str, Any] = {}
        for key, text in texts.items():
            call = _single(name, key, _properties(tool).get(key), text)
            if call.error:
                return call
            arguments |= call.arguments
        return ToolCall(name, arguments)

    def unknown(self, name: str) -> str:
        """What is said of a name that no tool has."""
        known = ", ".join(self.tools)
        if not name.strip():
            return f"the call names no tool; the tools are: {known}"
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        return f"there is no tool {shown!r}; the tools are: {known}.{nearest(name[:_LONGEST_NAME], list(self.tools))}"

    def example_input(self, tool: ToolDescription) -> str:
        """What is written as a tool's input, with the arguments' names in place of their values."""
        names = list(_properties(tool))
        return names[0].upper() if len(names) == 1 else self.example_object(tool)

    def example_object(self, tool: ToolDescription) -> str:
        """The same as a JSON object."""
        return json.dumps(dict.fromkeys(_properties(tool), "..."))

    def instructions(self, way: str, example: Callable[[str, str], str]) -> str:
        """What the policy is told of the tools.

        Args:
            way: how a call is written, as the end of a sentence.
            example: writes a call of the first tool, of its name and an example of its input.
        """
        first = next(iter(self.tools.values()))
        return "\n".join(
            [
                f"You can use tools. To use one, write {way} The tools are:",
                *(f"- {self.described(tool)}" for tool in self.tools.values()),
                f"For example:{example(first.name, self.example_input(first))}",
            ]
        )

    def described(self, tool: ToolDescription) -> str:
        """The tool in one line."""
        inputs = [_describe_argument(name, schema) for name, schema in _properties(tool).items()]
        text = " ".join(tool.description.split())
        return f"{tool.name}: {text}{' Input: ' + ', '.join(inputs) + '.' if inputs else ''}"


def read_object(text: str) -> tuple[object, str]:
    """The value of a JSON text, or None and what is wrong with it."""
    try:
        return parse_json(text), ""
    except ValueError as error:
        return None, str(error)[:200]


def _object(text: str) -> tuple[Mapping[str, Any] | None, str]:
    if not text.lstrip().startswith("{"):
        return None, "its input must be a JSON object"
    value, error = read_object(text)
    return (value, "") if isinstance(value, dict) else (None, f"its input is {error}")


def _single(name: str, argument: str, schema: Any, text: str) -> ToolCall:
    """The call of a tool with one argument, which is the text, or the JSON value that it spells."""
    if not isinstance(schema, Mapping) or schema.get("type", "string") == "string":
        return ToolCall(name, {argument: text})
    value, error = read_object(text)
    if error:
        return ToolCall(name, error=f"{name}: {argument} must be of type {schema['type']}, got {text[:60]!r}")
    return ToolCall(name, {argument: value})


def _properties(tool: ToolDescription) -> Mapping[str, Any]:
    properties = tool.parameters.get("properties", {})
    return properties if isinstance(properties, Mapping) else {}


def _describe_argument(name: str, schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    text = schema.get("description") if isinstance(schema, Mapping) else None
    return f"{name}{f' ({kind})' if isinstance(kind, str) else ''}{f', {text}' if text else ''}"
