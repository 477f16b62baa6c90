"""Problems through the chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from reasoner.errors import ConfigError, DataError
from reasoner.prompts import render
from reasoner.records import Message, Problem


@dataclass
class FakeTokenizer:
    """One token per character of `role:content` turns, 1 for the generation prompt; thinking adds a 2."""

    chat_template: str | None = "a template"
    refuses_system: bool = False
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **kwargs: Any) -> list[int]:
        assert kwargs.pop("tokenize")
        assert not kwargs.pop("return_dict")
        if self.refuses_system and conversation[0]["role"] == "system":
            raise ValueError("System role not supported")
        text = "".join(f"{turn['role'][0]}{turn['content']}" for turn in conversation)
        return (
            [ord(character) for character in text]
            + [1] * kwargs["add_generation_prompt"]
            + [2] * kwargs.get("think", 0)
        )


def problem(name: str, text: str) -> Problem:
    return Problem(name, (Message("system", "S"), Message("user", text)), "1")


def test_the_conversation_the_generation_prompt_and_the_arguments_reach_the_template() -> None:
    prompts = render([problem("a", "x"), problem("b", "y")], FakeTokenizer(), {"think": True}, 10)
    assert [prompt.token_ids for prompt in prompts] == [
        (ord("s"), ord("S"), ord("u"), ord("x"), 1, 2),
        (ord("s"), ord("S"), ord("u"), ord("y"), 1, 2),
    ]
    assert prompts[1].problem.id == "b"


def test_long_prompts_are_refused_with_the_longest() -> None:
    problems = [problem("a", "x"), problem("b", "x" * 9), problem("c", "x" * 12)]
    assert len(render(problems, FakeTokenizer(), {}, 16)) == 3
    with pytest.raises(DataError) as caught:
        render(problems, FakeTokenizer(), {}, 12)
    first, longest, *_ = str(caught.value).splitlines()
    assert first == "data.train: 2 of 3 rows cannot be used."
    assert longest.startswith("  problem c: its prompt has 16 tokens, more than sampling.max_prompt_tokens = 12.")


def test_a_missing_or_failing_chat_template_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no chat template.*instruction-tuned"):
        render([problem("a", "x")], FakeTokenizer(chat_template=None), {}, 10)
    with pytest.raises(ConfigError, match="fails on problem a: ValueError: System role not supported"):
        render([problem("a", "x")], FakeTokenizer(refuses_system=True), {}, 10)
