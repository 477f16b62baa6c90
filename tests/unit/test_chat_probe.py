"""What chat templates do: how they end a turn, what they open for a response, which messages they leave out."""

from __future__ import annotations

from typing import Any

import pytest

from reasoner.config import PromptConfig
from reasoner.data.prompts.chat import ChatRenderer
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.data.prompts.renderer import open_renderer, render
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem, SamplingParams
from tests import chat_templates as some
from tests.chat_templates import chat_tokenizer

NO_END = some.CHATML.replace("<|im_end|>\n", "\n")
ENDS = {
    "chatml": (some.CHATML, "<|im_end|>"),
    "llama 3": (some.LLAMA_3, "<|eot_id|>"),
    "gemma": (some.GEMMA, "<end_of_turn>"),
    "mistral": (some.MISTRAL, "</s>"),
    "system left out": (some.SYSTEM_LEFT_OUT, "</s>"),
    "r1": (some.DEEPSEEK_R1, "</s>"),
    "qwen 3": (some.QWEN_3, "<|im_end|>"),
    "phi 3, an end of the text after that of the turn": (some.PHI_3, "<|end|>"),
    "smollm": (some.SMOLLM, "<|im_end|>"),
    "glm 4, the next turn's token": (some.GLM_4, "<|user|>"),
    "text before the token": (some.CHATML.replace("<|im_end|>", "\n(end)<|im_end|>"), "<|im_end|>"),
    "no end after the last turn": (
        some.CHATML.replace("<|im_end|>\n", "{% if not loop.last %}<|im_end|>\n{% endif %}"),
        "<|im_end|>",
    ),
    "no end at all": (NO_END, "<|im_start|>"),
}
TEXTS = {
    "vicuna": (some.VICUNA, "USER:"),
    "alpaca": (some.ALPACA, "\n### Instruction:"),
    "spelled like a token": (some.CHATML.replace("im_end", "of_nobody"), "<|of_nobody|>"),
    "several lines": (some.CHATML.replace("<|im_end|>\n", "\n---\nEnd\n"), "\n---"),
    "nothing": (some.BARE, ""),
    "a template that takes no answers": ("{% if messages|length > 1 %}{{ raise_exception('') }}{% endif %}a", ""),
}


def renderer_of(template: str, prompt: PromptConfig | None = None, **kwargs: Any) -> ChatRenderer:
    result = open_renderer(chat_tokenizer(template=template), prompt or PromptConfig(), kwargs)
    assert isinstance(result, ChatRenderer)
    return result


@pytest.mark.parametrize("name", ENDS)
def test_the_token_that_ends_a_turn_is_found(name: str) -> None:
    template, expected = ENDS[name]
    tokenizer = chat_tokenizer()
    assert renderer_of(template).turn_end() == TurnEnd(tokenizer.convert_tokens_to_ids(expected), expected)


def test_a_token_that_the_tokenizer_does_not_call_special_ends_a_turn() -> None:
    tokenizer = chat_tokenizer(special=False)
    end = open_renderer(tokenizer, PromptConfig()).turn_end()
    assert end == TurnEnd(tokenizer.convert_tokens_to_ids("<|im_end|>"), "<|im_end|>")


@pytest.mark.parametrize("name", TEXTS)
def test_a_turn_that_ends_with_text_is_known_by_it(name: str) -> None:
    template, expected = TEXTS[name]
    assert renderer_of(template).turn_end() == TurnEnd(text=expected)


def test_the_end_of_a_turn_is_added_to_the_parameters() -> None:
    params = SamplingParams(1.0, 8, stop=("a",))
    assert TurnEnd(3, "<|im_end|>").added_to(params) == SamplingParams(1.0, 8, stop=("a",), end_tokens=(3,))
    assert TurnEnd(text="USER:").added_to(params) == SamplingParams(1.0, 8, stop=("a", "USER:"))
    assert TurnEnd(text="a").added_to(params) == TurnEnd().added_to(params) == params


def test_where_responses_end_is_said() -> None:
    chatml, end = renderer_of(some.CHATML), chat_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert chatml.end_of_turn_fact((1, end)) == "at <|im_end|>, as the chat template has it"
    assert chatml.end_of_turn_fact((1,)) == (
        "at <|im_end|>, as the chat template has it, and at the model's end tokens, of which it is none"
    )
    assert (
        renderer_of(some.VICUNA)
        .end_of_turn_fact((1,))
        .startswith("before 'USER:', as the chat template has it, and at")
    )
    assert "writes nothing after a response" in renderer_of(some.BARE).end_of_turn_fact((1,))


@pytest.mark.parametrize(
    ("template", "kwargs", "said"),
    [
        (some.DEEPSEEK_R1, {}, "writes <think> before every response: the text that reward sources see begins with it"),
        (some.MAGISTRAL, {}, "writes [THINK] before every response"),
        (some.QWEN_3, {"enable_thinking": False}, r"empty block, '<think>\n\n</think>', .* think_format gives 0"),
        (some.QWEN_3, {}, None),
        (some.CHATML, {}, None),
    ],
)
def test_what_a_template_opens_for_a_response_is_said(template: str, kwargs: Any, said: str | None) -> None:
    facts = renderer_of(template, **kwargs).facts()
    if said is None:
        assert facts == {}
    else:
        assert all(part in facts["thinking"] for part in said.split(" .* "))


def asked(*contents: str, prompt: PromptConfig, name: str = "p") -> Problem:
    turns = [Message("system", prompt.system)] if prompt.system else []
    for example in prompt.examples:
        turns += [Message("user", example["user"]), Message("assistant", example["assistant"])]
    return Problem(name, (*turns, *(Message("user", content) for content in contents)), "")


SYSTEM = PromptConfig(system="Be brief.")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (some.GEMMA, r"refuses a system message \(TemplateError: System role not supported\)"),
        (some.SYSTEM_LEFT_OUT, "leaves the system message out"),
    ],
)
def test_a_template_without_a_place_for_system_messages_is_refused_by_name(template: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^prompt\.system: .*{what}.*--set prompt\.system_role=user; or leave"):
        render([asked("Why?", prompt=SYSTEM)], renderer_of(template, SYSTEM), 100)
    of_a_row = [asked("Why?", prompt=PromptConfig(), name="a"), asked("Why?", prompt=SYSTEM, name="b")]
    with pytest.raises(ConfigError, match=rf"^problem b: .*{what}"):
        render(of_a_row, renderer_of(template), 100)
    assert render(of_a_row[:1], renderer_of(template), 100)


@pytest.mark.parametrize(
    "template", ["Hello.", "{{ messages[0].content }}", "{% for m in messages[:-1] %}{{ m.content }}{% endfor %}"]
)
def test_a_template_that_leaves_the_question_out_is_refused(template: str) -> None:
    """Every response would be one to the same text."""
    with pytest.raises(ConfigError, match="problem p: the model's chat template leaves the last message out"):
        render([asked("Why?", prompt=SYSTEM)], renderer_of(template, SYSTEM), 100)


@pytest.mark.parametrize("change", ["upper", "lower", "trim"])
def test_a_template_may_change_how_messages_are_written(change: str) -> None:
    template = f"{{% for m in messages %}}[{{{{ m.content|{change} }}}}]{{% endfor %}}"
    renderer = renderer_of(template, SYSTEM)
    problem = asked("Why?", prompt=SYSTEM)
    assert render([problem], renderer, 100)
    assert renderer.prompt(problem).casefold() == "[be brief.][why?]"


@pytest.mark.parametrize("template", [some.GEMMA, some.SYSTEM_LEFT_OUT, some.CHATML])
def test_a_system_message_goes_into_the_first_user_message_by_choice(template: str) -> None:
    example = {"user": "0+0?", "assistant": "0"}
    prompt = PromptConfig(system="Be brief.", system_role="user", examples=[example])
    merged = PromptConfig(examples=[{"user": "Be brief.\n\n0+0?", "assistant": "0"}])
    (prompt_with,) = render([asked("Why?", prompt=prompt)], renderer_of(template, prompt), 200)
    (prompt_as,) = render([asked("Why?", prompt=merged)], renderer_of(template, merged), 200)
    assert prompt_with.token_ids == prompt_as.token_ids
    assert prompt_with.problem.messages[0] == Message("system", "Be brief.")


@pytest.mark.parametrize(
    "template", [some.CHATML, some.LLAMA_3, some.MISTRAL, some.DEEPSEEK_R1, some.SMOLLM, some.VICUNA]
)
def test_templates_that_write_system_messages_are_left_alone(template: str) -> None:
    (prompt,) = render([asked("Why?", prompt=SYSTEM)], renderer_of(template, SYSTEM), 200)
    assert "Be brief." in chat_tokenizer().decode(prompt.token_ids)


def test_a_template_that_works_a_system_message_over_is_left_alone() -> None:
    """As one does that takes a switch out of it."""
    template = some.CHATML.replace("{{ m.content }}", "{{ m.content.replace('/no_think', '') }}")
    prompt = PromptConfig(system="Be brief. /no_think")
    assert render([asked("Why?", prompt=prompt)], renderer_of(template, prompt), 200)


def test_a_template_that_fails_with_and_without_a_system_message_says_its_own_error() -> None:
    with pytest.raises(ConfigError, match="fails on problem p: TemplateError: never"):
        render([asked("Why?", prompt=SYSTEM)], renderer_of("{{ raise_exception('never') }}", SYSTEM), 200)


THOUGHT = {"user": "1+1?", "assistant": "<think>\nOne and one.\n</think>\n\nIt is 2."}


@pytest.mark.parametrize("template", [some.DEEPSEEK_R1, some.QWEN_3])
def test_an_example_whose_thinking_the_template_leaves_out_is_refused(template: str) -> None:
    plain = {"user": "0+0?", "assistant": "It is 0."}
    prompt = PromptConfig(examples=[plain, THOUGHT])
    with pytest.raises(
        ConfigError, match=r"prompt\.examples\[1\]\.assistant: .* leaves 'One and one\.' out, .*chat_template_kwargs"
    ):
        render([asked("Why?", prompt=prompt)], renderer_of(template, prompt), 300)
    without = PromptConfig(examples=[plain])
    assert render([asked("Why?", prompt=without)], renderer_of(template, without), 300)


@pytest.mark.parametrize("template", [some.CHATML, some.LLAMA_3, some.MISTRAL])
def test_an_example_keeps_its_thinking_where_the_template_writes_it(template: str) -> None:
    prompt = PromptConfig(examples=[THOUGHT])
    tokenizer = chat_tokenizer(control=(*some.CONTROL, "<think>", "</think>"), template=template)
    (result,) = render([asked("Why?", prompt=prompt)], open_renderer(tokenizer, prompt), 300)
    mark = tokenizer.convert_tokens_to_ids("<think>")
    assert result.token_ids.count(mark) == 1  # the marks are no control tokens: they are what the policy is to write
    assert "One and one." in tokenizer.decode(result.token_ids)
