"""How models write tool calls in formats of their own, as their chat templates show it.

Which one a model uses is not looked up by its name: a call is rendered with its template, and the dialect that reads
this call is the model's.

    hermes    <tool_call>{"name": ..., "arguments": {...}}</tool_call>            Qwen 2.5 and 3, Hermes, SmolLM 2 and 3
    qwen-xml  <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>     Qwen 3 Coder, 3.5
    glm       <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>                    GLM 4.5
    llama     {"name": ..., "parameters": {...}}, also after <|python_tag|>                           Llama 3.1 to 3.3
    mistral   [TOOL_CALLS][{"name": ..., "arguments": {...}, "id": ...}], or [TOOL_CALLS]NAME[ARGS]{...}       Mistral
    deepseek  <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>, in V3 with a word and a fence around it
    phi       <|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>                                  Phi 4 mini
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from reasoner.data.turn_formats.arguments import ToolInputs, read_object
from reasoner.io.parsing import STRICT_JSON_DECODER, is_deep
from reasoner.records import ToolCall

_CALL = '{"name": NAME, "arguments": {...}}'
_NAMED = re.compile(r'\{\s*"(?:name|type|function)"')
"""the beginning of a JSON object that is a call"""
_MOST_TRIED = 16
"""beginnings of JSON objects that are looked at in a text without marks around its calls"""


@dataclass(frozen=True, slots=True)
class NativeCall:
    """A call and its id, where the model gave it one."""

    call: ToolCall
    id: str = ""


_Body = Callable[[str, ToolInputs], list[NativeCall]]


@dataclass(frozen=True, slots=True)
class CallDialect:
    """How one family of models writes calls."""

    name: str
    example: str
    """how a call is written, for messages"""
    read: Callable[[str, ToolInputs], list[NativeCall]]
    """The calls in the text of a turn, in which special tokens are spelled; none: the turn is an answer."""


def _tagged_dialect(name: str, opening: str, closing: str, body: _Body, example: str) -> CallDialect:
    """A dialect whose calls stand between marks."""
    shown = f"{opening}{example}{closing}"

    def read(text: str, inputs: ToolInputs) -> list[NativeCall]:
        calls: list[NativeCall] = []
        for inside, problem in _split_marked(text, opening, closing):
            calls += [_error(f"{problem}: write {shown}")] if problem else _readable(body(inside, inputs), shown)
        return calls or _bare(text, inputs, f"a call stands between {opening} and {closing}: write {shown}")

    return CallDialect(name, shown, read)


def _split_marked(text: str, opening: str, closing: str) -> Iterator[tuple[str, str]]:
    """What is between the marks, or what is wrong with them."""
    *closed, rest = text.split(closing)
    for part in closed:
        _, opened, inside = part.rpartition(opening)
        yield (inside.strip(), "") if opened else ("", f"{closing} closes nothing")
    if opening in rest:
        yield "", f"the call is not closed with {closing}"


def _readable(calls: list[NativeCall], shown: str) -> list[NativeCall]:
    """With what a call looks like in the errors of those that name no tool."""
    return [
        NativeCall(ToolCall("", error=f"{call.call.error}; write {shown}"))
        if call.call.error and not call.call.name
        else call
        for call in calls
    ]


def _error(text: str) -> NativeCall:
    return NativeCall(ToolCall("", error=text))


def _bare(text: str, inputs: ToolInputs, error: str) -> list[NativeCall]:
    """The error of a turn that is a call as JSON, without the marks."""
    if not _NAMED.match(text.lstrip()):
        return []
    value, _ = read_object(text.strip())
    known = isinstance(value, dict) and value.get("name") in list(inputs.tools)
    return [_error(error)] if known else []


def _json_calls(text: str, inputs: ToolInputs) -> list[NativeCall]:
    """A call as a JSON object, or several in a list."""
    value, problem = read_object(text)
    if problem:
        return [_error(f"the call is {problem}")]
    listed = value if isinstance(value, list) else [value]
    return [_json_call(call, inputs) for call in listed] or [_error("the list of calls is empty")]


def _json_call(value: Any, inputs: ToolInputs) -> NativeCall:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):  # as the interface of OpenAI has it
        value = {**value["function"], "id": value.get("id")}
    id_ = value.get("id") if isinstance(value, dict) else None
    return NativeCall(inputs.named_call(value), id_ if isinstance(id_, str) else "")


def _function_calls(text: str, inputs: ToolInputs) -> list[NativeCall]:
    """`<function=NAME>`, `<parameter=KEY>`, VALUE, and their ends."""
    head, opened, rest = text.partition("<function=")
    name, closed, rest = rest.partition(">")
    if head.strip() or not opened or not closed:
        return [_error("<function=NAME> is missing")]
    body, ended, _ = rest.partition("</function>")
    if not ended:
        return [_named_error(name, "</function> is missing")]
    arguments: dict[str, Any] = {}
    for part in body.split("</parameter>")[:-1]:
        _, opened, value = part.partition("<parameter=")
        key, closed, value = value.partition(">")
        if not opened or not closed:
            return [_named_error(name, "<parameter=NAME> is missing before </parameter>")]
        arguments[key.strip()] = value.removeprefix("\n").removesuffix("\n")
    if "<parameter=" in body.rpartition("</parameter>")[2]:
        return [_named_error(name, "</parameter> is missing")]
    return [NativeCall(inputs.text_call(name.strip(), arguments))]


def _glm_calls(text: str, inputs: ToolInputs) -> list[NativeCall]:
    """NAME, and each argument's name and value between marks of their own."""
    name, *parts = text.split("<arg_key>")
    arguments: dict[str, Any] = {}
    for part in parts:
        key, named, rest = part.partition("</arg_key>")
        _, opened, rest = rest.partition("<arg_value>")
        value, closed, _ = rest.partition("</arg_value>")
        if not (named and opened and closed):
            wanted = "<arg_key>NAME</arg_key><arg_value>VALUE</arg_value>"
            return [_named_error(name.strip(), f"an argument is written {wanted}")]
        arguments[key.strip()] = value
    return [NativeCall(inputs.text_call(name.strip(), arguments))]


def _deepseek_calls(text: str, inputs: ToolInputs) -> list[NativeCall]:
    """NAME and a JSON object, or the word `function`, NAME and the object in a fence."""
    first, parted, second = text.partition("<｜tool▁sep｜>")
    if not parted:
        return [_error("<｜tool▁sep｜> is missing after the tool's name")]
    name, arguments = first.strip(), second.strip()
    if not arguments.startswith("{") and name == "function":
        name, _, fenced = arguments.partition("\n")
        arguments = fenced.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    return [NativeCall(inputs.json_call(name.strip(), arguments))]


def _read_mistral(text: str, inputs: ToolInputs) -> list[NativeCall]:
    """A list after the mark, or a mark before every call."""
    _, *parts = text.split("[TOOL_CALLS]")
    calls: list[NativeCall] = []
    for part in map(str.strip, parts):
        head, parted, arguments = part.partition("[ARGS]")
        name, _, id_ = head.partition("[CALL_ID]")
        if parted:
            calls.append(NativeCall(inputs.json_call(name.strip(), arguments.strip()), id_.strip()))
        elif part.startswith(("[", "{")):
            calls += _readable(_json_calls(part, inputs), _MISTRAL)
        else:
            calls.append(_error(f"there is no call after [TOOL_CALLS]: write {_MISTRAL}"))
    return calls or _bare(text, inputs, f"a call comes after [TOOL_CALLS]: write {_MISTRAL}")


def _read_llama(text: str, inputs: ToolInputs) -> list[NativeCall]:
    """JSON objects, one after the other; after `<|python_tag|>` also a program, where there is a tool `python`."""
    _, tagged, after = text.partition("<|python_tag|>")
    text = (after if tagged else text).strip()
    if tagged and not text.startswith("{"):
        return [_program(text, inputs)]
    calls: list[NativeCall] = []
    place = 0
    for match in list(_NAMED.finditer(text))[:_MOST_TRIED] if "{" in text else []:
        if match.start() < place:
            continue
        try:
            value, place = STRICT_JSON_DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if is_deep(value) or not {"parameters", "arguments"} & set(value):
            continue
        calls.append(_json_call(value, inputs))
    if not calls and (tagged or _NAMED.match(text)):
        _, problem = read_object(text)
        return [_error(f"the call is {problem or 'no call'}: write {_LLAMA}")]
    return calls


def _program(text: str, inputs: ToolInputs) -> NativeCall:
    if "python" in inputs.tools and text:
        return NativeCall(inputs.call("python", text))
    return _error(f"after <|python_tag|> comes a call: write {_LLAMA}")


def _named_error(name: str, error: str) -> NativeCall:
    return NativeCall(ToolCall(name[:64], error=f"{name[:64]}: {error}"))


_MISTRAL = f"[TOOL_CALLS][{_CALL}]"
_LLAMA = '{"name": NAME, "parameters": {...}}'
DIALECTS = (
    _tagged_dialect("hermes", "<tool_call>", "</tool_call>", _json_calls, _CALL),
    _tagged_dialect(
        "qwen-xml",
        "<tool_call>",
        "</tool_call>",
        _function_calls,
        "<function=NAME><parameter=KEY>VALUE</parameter></function>",
    ),
    _tagged_dialect(
        "glm",
        "<tool_call>",
        "</tool_call>",
        _glm_calls,
        "NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>",
    ),
    _tagged_dialect(
        "deepseek", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", _deepseek_calls, "NAME<｜tool▁sep｜>{...}"
    ),
    _tagged_dialect("phi", "<|tool_call|>", "<|/tool_call|>", _json_calls, f"[{_CALL}]"),
    CallDialect("mistral", _MISTRAL, _read_mistral),
    CallDialect("llama", _LLAMA, _read_llama),
)
"""the one that reads most texts as a call comes last"""
