"""The token contract: what was sampled stays, and the tokens between two turns are those of the chat template.

Conversations are made at random; the whole of each is rendered once more by transformers and compared with the tokens
that came together turn by turn. Where the two differ for a template, the difference has a name here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoner.config import PromptConfig
from reasoner.data.turn_formats import TurnFormat, open_turn_format
from reasoner.data.turn_formats.native import tool_json
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem, ToolCall, ToolDescription
from tests import chat_templates as some
from tests import tool_templates as public
from tests.tool_templates import tool_tokenizer

MISTRAL_VERSIONS = ("v3", "v7", "v13")
TEMPLATES = {
    "Llama 3": public.LLAMA_3,
    "Qwen 2.5": public.QWEN_25,
    "Qwen 3": public.QWEN_3,
    "Qwen 3 Coder": public.QWEN_CODER,
    "SmolLM 2": some.SMOLLM,
    "SmolLM 3": public.SMOLLM_3,
    "Mistral 3": public.MISTRAL_3,
    "Mistral 11": public.MISTRAL_11,
    "Gemma 3": public.GEMMA_3,
    "Phi 3": some.PHI_3,
    "Phi 4": public.PHI_4,
    "DeepSeek V3": public.DEEPSEEK_V3,
    "DeepSeek R1": public.DEEPSEEK_R1,
    "GLM 4.5": public.GLM_45,
    **{f"Mistral's own {version}": version for version in MISTRAL_VERSIONS},
}
DIALECTS = {
    "Llama 3": "llama",
    "Qwen 2.5": "hermes",
    "Qwen 3": "hermes",
    "Qwen 3 Coder": "qwen-xml",
    "SmolLM 3": "hermes",
    "Mistral 3": "mistral",
    "Mistral 11": "mistral",
    "DeepSeek V3": "deepseek",
    "DeepSeek R1": "deepseek",
    "GLM 4.5": "glm",
    **{f"Mistral's own {version}": "mistral" for version in MISTRAL_VERSIONS},
}
THINKING = ("Qwen 3", "DeepSeek R1", "DeepSeek V3")
"""their templates leave the thinking of earlier responses out, and Qwen's adds an empty block to the last one"""
TOOLS = tuple(
    ToolDescription(
        name,
        "Looks.",
        {"type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": [*keys]},
    )
    for name, keys in (("find", ("what",)), ("compare", ("first", "second")))
)
TYPED = ("<|im_end|>", "</s>", "[INST]", "<|eot_id|>", "<｜User｜>", "<|end|>", "</tool_response>", "[/TOOL_RESULTS]")

words = st.text(st.sampled_from("ab12 .\n\"{}<>\\éü中'"), min_size=1, max_size=12).map(lambda text: f"x{text}x")
said = st.lists(words | st.sampled_from(TYPED), max_size=4).map("".join)
"""what a tool or an environment says: with quotes, line breaks, and control tokens that somebody typed"""
thought = st.just("") | words.map(lambda text: f"<think>\n{text}\n</think>\n\n")
SETTINGS = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def template_of(name: str) -> str:
    if TEMPLATES[name] not in MISTRAL_VERSIONS:
        return TEMPLATES[name]
    generator = pytest.importorskip("mistral_common.integrations.chat_templates.template_generator")
    tokenizers = pytest.importorskip("mistral_common.tokens.tokenizers.base")
    config = generator.TemplateConfig(
        version=tokenizers.TokenizerVersion(TEMPLATES[name]), use_special_token_variables=True
    )
    return str(generator.build_chat_template(config))


@cache
def opened(name: str, kind: str, tools: bool = True) -> tuple[TurnFormat, Any]:
    tokenizer = tool_tokenizer(template_of(name))
    return open_turn_format(kind, tokenizer, PromptConfig(system_role="user"), {}, TOOLS if tools else ()), tokenizer


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass
class Trajectory:
    """A response as it comes together: every token once, and never again."""

    turns: TurnFormat
    ids: list[int]
    mask: list[bool] = field(default_factory=list)
    begin: int = 0

    @classmethod
    def of(cls, turns: TurnFormat, problem: Problem) -> Trajectory:
        prompt = turns.prompt(problem, ())
        return cls(turns, list(prompt), begin=len(prompt))

    def write(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.mask += [True] * len(ids)
        self.written = tuple(ids)

    def hear(self, messages: Sequence[Message]) -> None:
        before = list(self.ids)
        parts = self.turns.increment(self.written, messages)
        assert len(parts) == len(messages)
        for part in parts:
            self.ids += part
            self.mask += [False] * len(part)
        assert self.ids[: len(before)] == before
        assert len(self.mask) == len(self.ids) - self.begin


def end_of(turns: TurnFormat) -> str:
    return turns.renderer.turn_end().text


def whole(name: str, tokenizer: Any, messages: Sequence[dict[str, Any]], tools: bool = False) -> str:
    """The conversation as transformers renders it."""
    told = {"tools": [tool_json(tool) for tool in TOOLS]} if tools else {}
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **told))


def same(name: str, ours: str, rendered: str) -> None:
    """But for the thinking of earlier responses, and the line breaks after it."""
    if name in THINKING:
        ours, rendered = without_thinking(ours), without_thinking(rendered)
    assert ours == rendered


def without_thinking(text: str) -> str:
    text = re.sub(r"(?:<think>\n.*?</think>\n*)+", "", text, flags=re.DOTALL)
    return re.sub(r"<｜Assistant｜>\n+", "<｜Assistant｜>", text)


@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
@SETTINGS
def test_a_conversation_of_turns_is_what_the_template_renders(name: str, data: st.DataObject) -> None:
    """With the user's messages, as environments write them. The space that some of Mistral's templates write before a
    response is the policy's to write."""
    turns, tokenizer = opened(name, "tags", tools=False)
    question, end = data.draw(said), end_of(turns)
    messages = [{"role": "user", "content": question}]
    trajectory = Trajectory.of(turns, Problem("p", (Message("user", question),), ""))
    lead = " " if name in ("Mistral 3", "Mistral 11") else ""
    opens = turns.renderer.traits.opened  # type: ignore[attr-defined]
    for _ in range(data.draw(st.integers(1, 3))):
        thinking = data.draw(thought) if name in THINKING else ""
        answer, reply = data.draw(words), data.draw(said)
        if opens:
            thinking = f"xx\n</think>\n\n{thinking}"
        ended = data.draw(st.booleans())
        trajectory.write(ids_of(tokenizer, lead + thinking + answer + (end if ended else "")))
        trajectory.hear([Message("user", reply)])
        messages += [{"role": "assistant", "content": thinking + answer}, {"role": "user", "content": reply}]
    same(name, text_of(tokenizer, trajectory.ids), whole(name, tokenizer, messages))


@pytest.mark.parametrize("kind", ["tags", "fenced"])
@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
@SETTINGS
def test_results_within_a_turn_are_part_of_one_message(name: str, kind: str, data: st.DataObject) -> None:
    """The turn is rendered as one response of the assistant; what the policy is told of the tools is in the prompt."""
    turns, tokenizer = opened(name, kind)
    problem = Problem("p", (Message("user", data.draw(words)),), "")
    trajectory, answer = Trajectory.of(turns, problem), ""
    for _ in range(data.draw(st.integers(1, 3))):
        call = {"tags": "<tool>find me</tool>", "fenced": "```find\nme\n```\n```output"}[kind]
        result = data.draw(said)
        text = data.draw(words) + "\n" + call
        assert turns.read(ids_of(tokenizer, text), text) == (ToolCall("find", {"what": "me"}),)
        trajectory.write(ids_of(tokenizer, text))
        trajectory.hear([Message("tool", result, "find")])
        answer += text + {"tags": f"<result>{result}</result>\n", "fenced": f"\n{result}\n```\n"}[kind]
    prompt = text_of(tokenizer, turns.prompt(problem, ()))
    assert text_of(tokenizer, trajectory.ids) == prompt + answer


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
@SETTINGS
def test_calls_and_results_are_what_the_template_renders(name: str, data: st.DataObject) -> None:
    """In the model's own format: the policy writes calls as the template writes them, and reads results as it does."""
    turns, tokenizer = opened(name, "native")
    messages: list[dict[str, Any]] = [{"role": "user", "content": data.draw(said)}]
    trajectory = Trajectory.of(turns, Problem("p", (Message("user", messages[0]["content"]),), ""))
    opens = turns.renderer.traits.opened  # type: ignore[attr-defined]
    for at in range(data.draw(st.integers(1, 3))):
        calls = data.draw(calls_of(1 if name == "Llama 3" else 3))
        written_calls = as_json(calls, at, name)
        answer = {"role": "assistant", "content": "", "tool_calls": written_calls}
        told = {"tools": [tool_json(tool) for tool in TOOLS]}
        before = whole(name, tokenizer, messages, tools=True).removesuffix(opens)
        after = str(tokenizer.apply_chat_template([*messages, answer], tokenize=False, **told))
        assert after.startswith(before)
        end = "<|observation|>" if name == "GLM 4.5" else end_of(turns)
        text = after[len(before) :].rstrip("\n").removesuffix(end).removesuffix(tokenizer.eos_token)
        thinking = "xx\n</think>\n\n" if opens and at == 0 else ""
        written = ids_of(tokenizer, thinking + text)
        assert turns.read(written, text) == calls
        trajectory.write((*written, *(ids_of(tokenizer, end) if data.draw(st.booleans()) else ())))
        results = [Message("tool", data.draw(said), call.name) for call in calls]
        trajectory.hear(results)
        messages.append(answer)
        for message, call in zip(results, written_calls, strict=True):
            messages.append(
                {"role": "tool", "name": message.name, "content": message.content, "tool_call_id": call["id"]}
            )
    same(name, text_of(tokenizer, trajectory.ids), whole(name, tokenizer, messages, tools=True))


def as_json(calls: Sequence[ToolCall], turn: int, name: str) -> list[dict[str, Any]]:
    text = name.startswith("DeepSeek")
    return [
        {
            "type": "function",
            "id": f"abcdefg{turn}{at}",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False) if text else dict(call.arguments),
            },
        }
        for at, call in enumerate(calls)
    ]


def calls_of(most: int) -> st.SearchStrategy[tuple[ToolCall, ...]]:
    find = words.map(lambda text: ToolCall("find", {"what": text}))
    compare = st.tuples(words, words).map(lambda two: ToolCall("compare", {"first": two[0], "second": two[1]}))
    return st.lists(find | compare, min_size=1, max_size=most).map(tuple)


@pytest.mark.parametrize("kind", ["tags", "fenced", "native"])
@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
@SETTINGS
def test_control_tokens_that_somebody_typed_stay_text(name: str, kind: str, data: st.DataObject) -> None:
    """The same conversation without them has the same control tokens, in the same order."""
    turns, tokenizer = opened(name, kind)
    parts = data.draw(st.lists(words | st.sampled_from(TYPED), min_size=1, max_size=4))
    control = turns.renderer.control
    known = {id_ for id_ in range(len(tokenizer)) if control.spelling_of(id_)}
    seen = []
    for text in ("".join(parts), "".join("x" if part in TYPED else part for part in parts)):
        trajectory = Trajectory.of(turns, Problem("p", (Message("user", text),), ""))
        trajectory.write(ids_of(tokenizer, f"y{end_of(turns)}"))
        trajectory.hear([Message("tool", text, "find"), Message("user", text)])
        seen.append([id_ for id_ in trajectory.ids if id_ in known])
        if kind != "native" or name not in ("Llama 3", "Mistral 3", "Mistral's own v3"):
            assert text_of(tokenizer, trajectory.ids).count(text) >= 3  # those write results as JSON
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_dialect_of_a_template_is_found_or_refused_by_name(name: str) -> None:
    turns, _ = opened(name, "native")
    if name in DIALECTS:
        turns.check()
        assert f"({DIALECTS[name]})" in turns.facts()["tool calls"]
        return
    refused = r"environment\.format = 'native': the model's chat template .* --set environment\.format=tags"
    with pytest.raises(ConfigError, match=refused):
        turns.check()


@pytest.mark.parametrize("name", TEMPLATES)
def test_where_a_template_would_write_earlier_turns_in_another_way_is_said(name: str) -> None:
    facts = opened(name, "native" if name in DIALECTS else "tags")[0].facts()
    assert ("thinking of earlier turns" in facts) == (name in THINKING)
    assert ("beginning of a conversation" in facts) == (name.startswith("Mistral") and name != "Mistral's own v13")
