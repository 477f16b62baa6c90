"""Tool calls in the formats of models, well-formed and malformed."""

from __future__ import annotations

import re

import pytest

from reasoner.config import PromptConfig
from reasoner.data.turn_formats import open_turn_format
from reasoner.data.turn_formats.arguments import MOST_CALLS, ToolInputs
from reasoner.data.turn_formats.dialects import DIALECTS, NativeCall
from reasoner.errors import ConfigError, DataError
from reasoner.records import Message, ToolCall, ToolDescription
from tests import tool_templates as public
from tests.tool_templates import tool_tokenizer

SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}, "times": {"type": "integer"}}}
TOOLS = (
    ToolDescription("find", "Looks.", SCHEMA),
    ToolDescription("python", "Runs.", {"type": "object", "properties": {"code": {"type": "string"}}}),
)
INPUTS = ToolInputs(TOOLS)
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
FIND = ToolCall("find", {"what": "a", "times": 2})


def read(dialect: str, text: str) -> list[NativeCall]:
    return BY_NAME[dialect].read(text, INPUTS)


BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
WELL_FORMED = [
    ("hermes", '<tool_call>\n{"name": "find", "arguments": {"what": "a", "times": 2}}\n</tool_call>'),
    ("hermes", 'I ask.<tool_call>{"arguments": {"what": "a", "times": 2}, "name": "find"}</tool_call>\n'),
    ("hermes", '<tool_call>{"name": "find", "arguments": "{\\"what\\": \\"a\\", \\"times\\": 2}"}</tool_call>'),
    ("hermes", 'a <tool_call> is <tool_call>[{"name": "find", "arguments": {"what": "a", "times": 2}}]</tool_call>'),
    ("qwen-xml", "<tool_call>\n<function=find>\n<parameter=what>\na\n</parameter>\n<parameter=times>\n2\n</parameter>\n"
     "</function>\n</tool_call>"),
    ("glm", "<tool_call>find\n<arg_key>what</arg_key>\n<arg_value>a</arg_value>\n<arg_key>times</arg_key>"
     "<arg_value>2</arg_value>\n</tool_call>"),
    ("deepseek", f'<｜tool▁calls▁begin｜>{BEGIN}find{SEP}{{"what": "a", "times": 2}}{END}'),
    ("deepseek", f'{BEGIN}function{SEP}find\n```json\n{{"what": "a", "times": 2}}\n```{END}'),
    ("phi", '<|tool_call|>[{"name": "find", "arguments": {"what": "a", "times": 2}}]<|/tool_call|>'),
    ("mistral", '[TOOL_CALLS] [{"name": "find", "arguments": {"what": "a", "times": 2}, "id": "abc123456"}]'),
    ("mistral", '[TOOL_CALLS]find[ARGS]{"what": "a", "times": 2}'),
    ("mistral", '[TOOL_CALLS]find[CALL_ID]abc123456[ARGS]{"what": "a", "times": 2}'),
    ("llama", '{"name": "find", "parameters": {"what": "a", "times": 2}}'),
    ("llama", '<|python_tag|>{"type": "function", "name": "find", "parameters": {"what": "a", "times": 2}}'),
    ("llama", 'I ask: {"name": "find", "parameters": {"what": "a", "times": 2}}.'),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "text"), WELL_FORMED)
def test_a_call_is_read(dialect: str, text: str) -> None:
    assert [each.call for each in read(dialect, text)] == [FIND]


@pytest.mark.parametrize(("dialect", "text"), WELL_FORMED)
def test_calls_one_after_the_other_are_read_in_their_order(dialect: str, text: str) -> None:
    calls = [each.call for each in read(dialect, text + text)]
    if text.startswith("<|python_tag|>"):
        assert calls[0] == FIND  # the mark is written once
    else:
        assert calls == [FIND, FIND]


def test_the_id_of_a_call_is_read() -> None:
    assert read("mistral", WELL_FORMED[9][1])[0].id == "abc123456"
    assert read("mistral", WELL_FORMED[11][1])[0].id == "abc123456"
    assert read("hermes", WELL_FORMED[0][1])[0].id == ""


def test_a_program_after_the_mark_is_one_for_python() -> None:
    (result,) = read("llama", "<|python_tag|>print(1)\n")
    assert result.call == ToolCall("python", {"code": "print(1)"})
    (result,) = BY_NAME["llama"].read("<|python_tag|>print(1)", ToolInputs(TOOLS[:1]))
    assert "after <|python_tag|> comes a call: write {" in result.call.error


@pytest.mark.parametrize("dialect", BY_NAME)
@pytest.mark.parametrize(
    "text", ["It is 391.", "", '{"answer": 3}', "a < b, {x | x > 0}", '```json\n{"a": 1}\n```', "[1, 2]"]
)
def test_what_is_no_call_is_an_answer(dialect: str, text: str) -> None:
    assert read(dialect, text) == []


@pytest.mark.parametrize(
    ("dialect", "text", "error"),
    [
        ("hermes", '<tool_call>{"name": "find"', "not closed with </tool_call>: write <tool_call>{"),
        ("hermes", '{"name": "find", "arguments": {}}</tool_call>', "</tool_call> closes nothing: write <tool_call>"),
        ("hermes", "<tool_call></tool_call>", "the call is not JSON.*; write <tool_call>{"),
        ("hermes", "<tool_call>{'name': 'find'}</tool_call>", "the call is not JSON"),
        ("hermes", "<tool_call>[]</tool_call>", "the list of calls is empty"),
        ("hermes", "<tool_call>3</tool_call>", '"name" and "arguments"'),
        ("hermes", '<tool_call>{"name": "fin", "arguments": {}}</tool_call>', "no tool 'fin'.*find"),
        ("hermes", '<tool_call>{"name": "find", "arguments": 3}</tool_call>', '"arguments" must be .* object, got 3'),
        ("hermes", '<tool_call>{"name": "find", "arguments": "{"}</tool_call>', '"arguments" must be a JSON object'),
        ("hermes", f"<tool_call>{'[' * 5000}</tool_call>", "the call is"),
        ("hermes", f'<tool_call>{{"name": "find", "arguments": {"9" * 5000}}}</tool_call>', "the call is"),
        ("hermes", '{"name": "find", "arguments": {}}', "a call stands between <tool_call> and </tool_call>"),
        ("qwen-xml", "<tool_call>find</tool_call>", "<function=NAME> is missing; write <tool_call><function=NAME>"),
        ("qwen-xml", "<tool_call><function=find></tool_call>", "find: </function> is missing"),
        ("qwen-xml", "<tool_call><function=find>a</parameter></function></tool_call>", "<parameter=NAME> is missing"),
        ("qwen-xml", "<tool_call><function=find><parameter=what>a</function></tool_call>", "</parameter> is missing"),
        ("qwen-xml", "<tool_call><function=find><parameter=times>a</parameter></function></tool_call>", "times must"),
        ("qwen-xml", "<tool_call><function=fin></function></tool_call>", "no tool 'fin'"),
        ("glm", "<tool_call></tool_call>", "names no tool; the tools are: find, python"),
        ("glm", "<tool_call>find<arg_key>what</arg_key>a</tool_call>", "find: an argument is written <arg_key>"),
        ("deepseek", f"{BEGIN}find {{}}{END}", "<｜tool▁sep｜> is missing"),
        ("deepseek", f"{BEGIN}find{SEP}[1]{END}", "find: its input must be a JSON object"),
        ("deepseek", f"{BEGIN}find{SEP}{{", "not closed with <｜tool▁call▁end｜>"),
        ("phi", "<|tool_call|>[{}]<|/tool_call|>", '"name" and "arguments"'),
        ("mistral", "[TOOL_CALLS]", r"no call after \[TOOL_CALLS\]: write \[TOOL_CALLS\]\[{"),
        ("mistral", "[TOOL_CALLS] find a", "no call after"),
        ("mistral", '[TOOL_CALLS] [{"name": "find"', "the call is not JSON"),
        ("mistral", "[TOOL_CALLS]find[ARGS]{", "find: its input is not JSON"),
        ("mistral", "[TOOL_CALLS]fin[ARGS]{}", "no tool 'fin'"),
        ("llama", '{"name": "find", "parameters": {"what": ', "the call is not JSON.*: write {"),
        ("llama", '{"name": "find"}', 'the call is no call: write {"name": NAME, "parameters"'),
        ("llama", '{"name": "fin", "parameters": {}}', "no tool 'fin'"),
        ("llama", "<|python_tag|>", "a call: write {"),
    ],
)  # fmt: skip
def test_a_malformed_call_says_what_is_wrong(dialect: str, text: str, error: str) -> None:
    (result,) = read(dialect, text)
    assert re.search(error, result.call.error, re.DOTALL), result.call.error
    assert not result.call.arguments
    assert len(result.call.error) < 500


PIECES = (
    "<tool_call>",
    "</tool_call>",
    '{"name": ',
    "<function=",
    "</parameter>",
    "<arg_key>",
    "[TOOL_CALLS]",
    "[",
    "{",
)


@pytest.mark.parametrize("dialect", BY_NAME)
def test_half_a_megabyte_is_read_at_once(dialect: str) -> None:
    for piece in PIECES:
        read(dialect, piece * (2**19 // len(piece)))


def test_too_many_calls_in_one_turn_are_refused_in_their_place() -> None:
    turns = open_turn_format("native", tool_tokenizer(public.QWEN_25), PromptConfig(), {}, TOOLS)
    text = '<tool_call>{"name": "find", "arguments": {}}</tool_call>' * 1000
    calls = turns.read(tool_tokenizer(public.QWEN_25).encode(text), text)
    assert len(calls) == MOST_CALLS
    assert "1000 calls in one turn are too many; the first 15 were made" in calls[-1].error
    assert not calls[-2].error


def test_a_call_in_thinking_that_is_not_closed_is_told() -> None:
    tokenizer = tool_tokenizer(public.QWEN_3)
    turns = open_turn_format("native", tokenizer, PromptConfig(), {}, TOOLS)
    call = WELL_FORMED[0][1]

    def calls(text: str) -> tuple[ToolCall, ...]:
        return turns.read(tokenizer.encode(text, add_special_tokens=False), "")

    assert calls(f"<think>\nI could {call}\n</think>\n\nIt is 2.<|im_end|>") == ()
    assert calls(f"<think>\nI could.\n</think>\n\n{call}<|im_end|>") == (FIND,)
    assert calls(f"I could.\n</think>\n\n{call}") == (FIND,)
    assert calls("<think>\nI could.<|im_end|>") == ()
    (unclosed,) = calls(f"<think>\nI could {call}<|im_end|>")
    assert unclosed.error == "the thinking is not closed: close it before the call"


def test_results_have_the_ids_that_the_policy_gave() -> None:
    tokenizer = tool_tokenizer(public.MISTRAL_3)
    turns = open_turn_format("native", tokenizer, PromptConfig(), {}, TOOLS)
    for id_, expected in (("abc123456", "abc123456"), ("</s>", "call00000"), ("", "call00000")):
        text = f'[TOOL_CALLS] [{{"name": "find", "arguments": {{}}, "id": "{id_}"}}]'
        (part,) = turns.increment(tokenizer.encode(text), [Message("tool", "found", "find")])
        assert f'"call_id": "{expected}"' in tokenizer.decode(part)


def test_messages_that_the_template_refuses_are_told_by_its_error() -> None:
    """The response is a recorded failure; the run goes on."""
    refusing = "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no such thing') }}{% endif %}"
    template = public.QWEN_25.replace(
        "{%- for m in messages %}", f"{refusing}{{% endfor %}}{{%- for m in messages %}}", 1
    )
    tokenizer = tool_tokenizer(template)
    for kind in ("native", "tags"):
        turns = open_turn_format(kind, tokenizer, PromptConfig(), {}, TOOLS)
        turns.check()
        with pytest.raises(DataError, match="cannot be written as tokens: TemplateError: no such thing"):
            turns.increment(tokenizer.encode("a<|im_end|>"), [Message("user", "no")])


def test_a_format_that_the_model_lacks_is_refused_with_what_to_do() -> None:
    def refused(template: str, match: str, prompt: PromptConfig | None = None) -> None:
        with pytest.raises(ConfigError, match=match):
            open_turn_format("native", tool_tokenizer(template), prompt or PromptConfig(), {}, TOOLS).check()

    instead = r".*--set environment\.format=tags \(or fenced\)"
    refused(public.GEMMA_3, rf"does not tell the policy of the tool 'find'\.{instead}")
    told = "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    refused(told, f"writes no tool calls{instead}")
    calls = told.replace("{% endfor %}", "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}</s>{% endfor %}")
    refused(calls, rf"in a way that is not known here, such as .*qznameqz.*known are: hermes, .*{instead}")
    no_results = public.QWEN_25.replace("m.role == 'tool'", "m.role == 'function'")
    refused(no_results, f"leaves a message of the role 'tool' after a response out{instead}")
    refused(public.QWEN_25, r"environment\.format = 'native' .* prompt\.format = 'plain'", PromptConfig(format="plain"))
    typed = ToolDescription("find", "Ends with <|im_end|>.", SCHEMA)
    with pytest.raises(ConfigError, match="the description of 'find' spells a control token"):
        open_turn_format("native", tool_tokenizer(public.QWEN_25), PromptConfig(), {}, (typed,)).check()
