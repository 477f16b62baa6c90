"""What text a response carries: the marks of thinking, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reasoner import Problem, Response, Score
from reasoner.sampling.responses import build_response, opened_block
from reasoner_rewards.math import math
from reasoner_rewards.think_format import think_format
from tests.tiny import build_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(build_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def with_marks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One in which the marks are special tokens."""
    folder: Path = build_tiny_model(tmp_path_factory.mktemp("marks"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    return tokenizer


def respond(tokenizer: Any, prompt: str, text: str, stop: tuple[str, ...] = ()) -> Response:
    ids = tokenizer(text)["input_ids"]
    opened = opened_block(tokenizer, tokenizer(prompt)["input_ids"])
    return build_response(tokenizer, ids, [-1.0] * len(ids), "stop", stop, 0, opened)


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("What does <think> mean?<|im_end|>\n<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\nthink\n", ""),
    ],
)
def test_a_block_that_the_template_opened_is_known_from_the_prompt(
    tokenizer: Any, with_marks: Any, prompt: str, opened: str
) -> None:
    for each in (tokenizer, with_marks):
        assert opened_block(each, each(prompt)["input_ids"]) == opened


def test_thinking_that_was_cut_earns_nothing(tokenizer: Any, with_marks: Any) -> None:
    for each in (tokenizer, with_marks):
        cut = respond(each, "assistant\n<think>\n", r"It is \boxed{42}. Wait")
        assert cut.text == "<think>\nIt is \\boxed{42}. Wait"
        assert value(math(Problem("p", (), "42"), cut)) == 0.0
        whole = respond(each, "assistant\n<think>\n", r"It is 42.</think>\boxed{42}<|im_end|>")
        assert whole.text == "<think>\nIt is 42.</think>\\boxed{42}"
        assert value(math(Problem("p", (), "42"), whole)) == 1.0
        assert value(think_format(Problem("p", (), "42"), whole)) == 1.0


def test_marks_stay_and_other_special_tokens_go(tokenizer: Any, with_marks: Any) -> None:
    for each in (tokenizer, with_marks):
        response = respond(each, "assistant\n", "<think>a</think><|im_start|>b<think>c<|im_end|>")
        assert response.text == "<think>a</think>b<think>c"
    assert respond(with_marks, "assistant\n<think>", "a</think>b", stop=("b",)).text == "<think>a</think>"


def value(score: Any) -> float:
    assert isinstance(score, Score)
    return score.value
