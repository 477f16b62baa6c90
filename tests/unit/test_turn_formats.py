"""Tool calls in what the policy writes, and the tokens that come between its turns."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import AddedToken

from reasoner.config import PromptConfig
from reasoner.data.turn_formats import TurnFormat, open_turn_format
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem, ToolCall, ToolDescription
from tests import chat_templates as some
from tests.chat_templates import chat_tokenizer


def described(name: str, *arguments: str, kind: str = "string") -> ToolDescription:
    schema = {"type": "object", "properties": {each: {"type": kind} for each in arguments}, "required": [*arguments]}
    return ToolDescription(name, f"Does what {name} does.", schema)


CALCULATOR = described("calculator", "expression")
TOOLS = (CALCULATOR, described("python", "code"), described("dates", "first", "second"), described("now"))
PROBLEM = Problem("p", (Message("user", "What is 17 * 23?"),), "391")
PLAIN = PromptConfig(format="plain")


def opened(
    name: str = "tags",
    template: str = some.CHATML,
    prompt: PromptConfig | None = None,
    tools: tuple[ToolDescription, ...] = TOOLS,
    kind: str = "bytes",
) -> tuple[TurnFormat, Any]:
    tokenizer = chat_tokenizer(kind, template=template)
    return open_turn_format(name, tokenizer, prompt or PromptConfig(), {}, tools), tokenizer


def text_of(tokenizer: Any, *parts: tuple[int, ...]) -> str:
    ids = [id_ for part in parts for id_ in part]
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def read(name: str, text: str, tools: tuple[ToolDescription, ...] = TOOLS) -> tuple[ToolCall, ...]:
    turns, tokenizer = opened(name, tools=tools)
    return turns.read(ids_of(tokenizer, text), text)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("I ask. <tool>calculator 17 * 23</tool>", ToolCall("calculator", {"expression": "17 * 23"})),
        ("<tool>python\nprint(1)\n</tool>\n", ToolCall("python", {"code": "print(1)"})),
        ("<tool>python {1: 2}</tool>", ToolCall("python", {"code": "{1: 2}"})),
        ('<tool>python {"code": "1"}</tool>', ToolCall("python", {"code": "1"})),
        ('<tool>dates {"first": "a", "second": "b"}</tool>', ToolCall("dates", {"first": "a", "second": "b"})),
        ("<tool>now</tool>", ToolCall("now")),
        ("<tool>now {}</tool>", ToolCall("now")),
        ("Not <tool>, but <tool>now</tool>", ToolCall("now")),
        (
            '<tool>{"name": "calculator", "arguments": {"expression": "1"}}</tool>',
            ToolCall("calculator", {"expression": "1"}),
        ),
    ],
)
def test_a_call_between_tags_is_read(text: str, call: ToolCall) -> None:
    assert read("tags", text) == (call,)


@pytest.mark.parametrize("text", ["The answer is 391.", "", "a < b and <b>bold</b>", "<tools>", "<tool_call>now"])
def test_what_has_no_tags_is_an_answer(text: str) -> None:
    assert read("tags", text) == ()


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("<tool>calculator 1", "", "not closed: write </tool> after it"),
        ("calculator 1</tool>", "", "closes nothing: write <tool> before"),
        ("<tool></tool>", "", "the call names no tool; the tools are: calculator, python, dates, now"),
        ("<tool>calculater 1</tool>", "calculater", "there is no tool 'calculater'.*calculator"),
        ("<tool>calculator</tool>", "calculator", "its input is empty; write EXPRESSION"),
        ("<tool>dates a b</tool>", "dates", r'must be a JSON object; write {"first": "...", "second": "..."}'),
        ('<tool>dates {"first": </tool>', "dates", "its input is not JSON"),
        ('<tool>{"name": "now"</tool>', "", "the call is not JSON"),
        ('<tool>{"tool": "now"}</tool>', "", 'an? .*object with "name" and "arguments"'),
        ('<tool>{"name": 3}</tool>', "", '"name" must be the name of a tool, got 3'),
        ('<tool>{"name": "now", "arguments": [1]}</tool>', "now", r'"arguments" must be a JSON object, got \[1\]'),
        ('<tool>{"name": "now", "arguments": NaN}</tool>', "", "NaN is not a JSON value"),
        (f"<tool>{'{' * 200}</tool>", "", "the call is"),
        (f"<tool>{'x' * 1000} 1</tool>", "x" * 64, r"there is no tool 'x{64}\.\.\.'"),
    ],
)
def test_a_malformed_call_between_tags_says_what_is_wrong(text: str, name: str, error: str) -> None:
    (call,) = read("tags", text)
    assert call.name == name
    assert not call.arguments
    assert re.search(error, call.error), call.error
    assert len(call.error) < 400


def test_an_argument_that_is_no_text_is_read_as_json() -> None:
    number = (described("square", "x", kind="number"),)
    assert read("tags", "<tool>square 1.5</tool>", number) == (ToolCall("square", {"x": 1.5}),)
    (call,) = read("tags", "<tool>square one</tool>", number)
    assert call.error == "square: x must be of type number, got 'one'"


BLOCK = "I ask.\n```calculator\n17 * 23\n```\n"


@pytest.mark.parametrize("end", ["```output", "```output\n", ""])
def test_a_call_in_a_block_is_read(end: str) -> None:
    assert read("fenced", BLOCK + end) == (ToolCall("calculator", {"expression": "17 * 23"}),)


def test_the_last_block_is_the_call() -> None:
    first = "```python\nx = 1\n```\n"
    assert read("fenced", f"{first}{BLOCK}```output")[0].name == "calculator"


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 391.",
        f"{BLOCK}So it is 391.",
        "```json\n{}\n```",
        "```\ncalculator\n```",
        "a ```calculator 1``` b",
    ],
)
def test_blocks_that_are_no_calls_are_part_of_an_answer(text: str) -> None:
    assert read("fenced", text) == ()


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("It is\n```output", "", "no block before ```output"),
        ("```calculator\n1\n```output", "calculator", "not closed: write ``` on a line of its own"),
        ("```calculator\n1", "calculator", "not closed"),
        ("```bash\nls\n```\n```output", "bash", "there is no tool 'bash'"),
        ("```\nls\n```\n```output", "", "names no tool"),
        ("```calculator\n```\n```output", "calculator", "its input is empty"),
    ],
)
def test_a_malformed_call_in_a_block_says_what_is_wrong(text: str, name: str, error: str) -> None:
    (call,) = read("fenced", text)
    assert (call.name, error in call.error) == (name, True), call


def test_a_megabyte_is_read_at_once() -> None:
    for name in ("tags", "fenced"):
        turns, _ = opened(name)
        for piece in ("<tool>", "```calculator\n", "{", "</tool> ", "```output", "\n"):
            turns.read((), piece * (2**20 // len(piece)))


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("fenced", "```now\n```\n```output", "\n12:34\n```\n"),
        ("fenced", "```now\n```\n```output\n", "12:34\n```\n"),
    ],
)
def test_a_result_continues_a_block(name: str, written: str, expected: str) -> None:
    turns, tokenizer = opened(name)
    ids = ids_of(tokenizer, written)
    (part,) = turns.increment(ids, [Message("tool", "12:34", "now")])
    assert text_of(tokenizer, ids, part) == written + expected


@pytest.mark.parametrize(("name", "call"), [("tags", "<tool>now</tool>"), ("fenced", "```now\n```\n```output")])
@pytest.mark.parametrize("beyond", ["<", "\n", "\n1", " ", "x", "<re"])
def test_what_a_token_holds_beyond_the_stop_string_is_not_written_twice(name: str, call: str, beyond: str) -> None:
    """As tokenizers have it that know `><` or `>` with a line break: the policy then writes the beginning of the result
    with the end of its call."""
    turns, tokenizer = opened(name)
    last = call[-1] + beyond
    tokenizer.add_tokens([AddedToken(last, special=False, normalized=False)])
    written = ids_of(tokenizer, call + beyond)
    assert text_of(tokenizer, written[-1:]) == last
    (part,) = turns.increment(written, [Message("tool", "12:34", "now")])
    result = {"tags": "<result>12:34</result>\n", "fenced": "\n12:34\n```\n"}[name]
    begun = result.startswith(beyond)
    assert text_of(tokenizer, written, part) == call + (result if begun else beyond + result)


@pytest.mark.parametrize("prompt", [PromptConfig(), PLAIN])
@pytest.mark.parametrize("kind", ["bytes", "prefix", "first", "unigram"])
def test_a_result_continues_a_turn_with_tags(prompt: PromptConfig, kind: str) -> None:
    """Also with tokenizers that write a space before a text."""
    turns, tokenizer = opened(prompt=prompt, kind=kind)
    ids = ids_of(tokenizer, "<tool>now</tool>")
    (part,) = turns.increment(ids, [Message("tool", "12:34", "now")])
    assert text_of(tokenizer, ids, part).rstrip() == "<tool>now</tool><result>12:34</result>"


TURNS = {
    "chatml": (some.CHATML, "<|im_end|>", "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
    "llama 3": (
        some.LLAMA_3,
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": (some.GEMMA, "<end_of_turn>", "\n<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"),
    "mistral": (some.MISTRAL, "</s>", "[INST] {}[/INST]"),
    "r1": (some.DEEPSEEK_R1, "</s>", "<｜User｜>{}<｜Assistant｜><think>\n"),
    "qwen 3": (some.QWEN_3, "<|im_end|>", "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
    "phi 3": (some.PHI_3, "<|end|>", "\n<|user|>\n{}<|end|>\n<|assistant|>\n"),
    "glm 4": (some.GLM_4, "<|user|>", "\n{}<|assistant|>"),
    "vicuna": (some.VICUNA, " USER:", " {} ASSISTANT:"),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_message_of_the_user_follows_as_the_template_writes_it(name: str) -> None:
    """The end of the policy's turn is written where the policy has not written it."""
    template, end, after = TURNS[name]
    turns, tokenizer = opened(template=template)
    turns.check()
    message = [Message("user", "Higher!")]
    written = ids_of(tokenizer, "It is 5.")
    (cut,), (ended,) = turns.increment(written, message), turns.increment((*written, *ids_of(tokenizer, end)), message)
    assert text_of(tokenizer, written, cut) == "It is 5." + end + after.format("Higher!")
    assert text_of(tokenizer, written, ids_of(tokenizer, end), ended) == "It is 5." + end + after.format("Higher!")


def test_another_end_token_of_the_model_stands_for_that_of_the_template() -> None:
    turns, tokenizer = opened()  # whose own end token is </s>
    written = (*ids_of(tokenizer, "5"), tokenizer.eos_token_id)
    (part,) = turns.increment(written, [Message("user", "Higher!")])
    assert text_of(tokenizer, part) == "\n<|im_start|>user\nHigher!<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(("name", "shape"), [("tags", "<result>{}</result>"), ("fenced", "```output\n{}\n```")])
def test_results_after_an_ended_turn_are_one_turn_of_the_user(name: str, shape: str) -> None:
    turns, tokenizer = opened(name)
    written = ids_of(tokenizer, "<|im_end|>")
    parts = turns.increment(written, [Message("tool", "1"), Message("tool", "2"), Message("user", "Go on.")])
    message = "\n".join([shape.format(1), shape.format(2), "Go on."])
    assert text_of(tokenizer, *parts) == f"\n<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
    texts = [text_of(tokenizer, part).strip() for part in parts]
    assert texts == [
        f"<|im_start|>user\n{shape.format(1)}",
        shape.format(2),
        "Go on.<|im_end|>\n<|im_start|>assistant",
    ]


@pytest.mark.parametrize("prompt", [PromptConfig(), PLAIN])
@pytest.mark.parametrize("role", ["tool", "user"])
def test_control_tokens_in_a_message_stay_text(prompt: PromptConfig, role: Any) -> None:
    turns, tokenizer = opened(prompt=prompt)
    written = ids_of(tokenizer, "<tool>now</tool>")
    (plain,) = turns.increment(written, [Message(role, "1")])
    (typed,) = turns.increment(written, [Message(role, "1<|im_end|></s>")])
    special = {tokenizer.convert_tokens_to_ids(text) for text in some.CONTROL}
    assert [id_ for id_ in typed if id_ in special] == [id_ for id_ in plain if id_ in special]
    assert "1<|im_end|></s>" in text_of(tokenizer, typed)


@pytest.mark.parametrize("name", ["tags", "fenced"])
@pytest.mark.parametrize("template", [some.CHATML, some.SMOLLM, some.LLAMA_3])
def test_the_policy_is_told_of_the_tools(name: str, template: str) -> None:
    turns, tokenizer = opened(name, template)
    text = text_of(tokenizer, turns.prompt(PROBLEM, ()))
    assert "You can use tools." in text
    assert "- calculator: Does what calculator does. Input: expression (string)." in text
    assert text.index("You can use tools.") < text.index("17 * 23")


def test_the_tools_come_after_the_system_message_of_a_row() -> None:
    turns, tokenizer = opened()
    problem = Problem("p", (Message("system", "Be brief."), Message("user", "1+1?")), "2")
    assert "<|im_start|>system\nBe brief.\n\nYou can use tools." in text_of(tokenizer, turns.prompt(problem, ()))


def test_the_tools_come_before_a_plain_text() -> None:
    turns, tokenizer = opened(prompt=PLAIN)
    text = text_of(tokenizer, turns.prompt(PROBLEM, ()))
    assert text.startswith("You can use tools.")
    assert text.endswith("</tool>\n\nWhat is 17 * 23?")


def test_a_template_without_a_place_for_the_tools_is_refused_by_name() -> None:
    turns, _ = opened(template=some.GEMMA)
    with pytest.raises(ConfigError, match=r"^environment\.tools, .*System role not.*--set prompt\.system_role=user\.$"):
        turns.renderer.check([PROBLEM])
    merged, tokenizer = opened(template=some.GEMMA, prompt=PromptConfig(system_role="user"))
    merged.renderer.check([PROBLEM])
    assert "<start_of_turn>user\nYou can use tools." in text_of(tokenizer, merged.prompt(PROBLEM, ()))


@pytest.mark.parametrize("prompt", [PromptConfig(), PLAIN])
def test_what_an_environment_says_first_is_part_of_the_question(prompt: PromptConfig) -> None:
    turns, tokenizer = opened(prompt=prompt, tools=())
    text = text_of(tokenizer, turns.prompt(PROBLEM, [Message("user", "Guess </s>.")]))
    assert "What is 17 * 23?\n\nGuess </s>." in text
    assert tokenizer.eos_token_id not in turns.prompt(PROBLEM, [Message("user", "Guess </s>.")])


def test_a_template_that_takes_no_second_question_is_refused_at_the_start() -> None:
    once = "{% if messages|length > 1 %}{{ raise_exception('one message') }}{% endif %}{{ messages[0].content }}"
    with pytest.raises(ConfigError, match=r"cannot write a message of the role 'user'.*one message.*Correct the temp"):
        opened(template=once)[0].check()
    last = "{% for m in messages[:2] %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="leaves a message of the role 'user' after a response out"):
        opened(template=last)[0].check()
    opened(prompt=PLAIN, template=once)[0].check()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"environment\.format = 'xml': there are native, tags, fenced"):
        opened("xml")
