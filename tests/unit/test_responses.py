"""What text a response carries: the marks of thinking, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reasoner import Problem, Response, RewardSource, Score, after_thinking
from reasoner.config import PromptConfig
from reasoner.data.prompts.renderer import open_renderer, render
from reasoner.data.prompts.thinking import PAIRS
from reasoner.errors import DataError, SamplerError
from reasoner.records import Message, SamplingParams
from reasoner.sampling.responses import all_end_tokens, end_tokens, opened_block, repeats, response_text
from reasoner_rewards.boxed_format import boxed_format
from reasoner_rewards.choice import choice
from reasoner_rewards.code.extraction import program_in
from reasoner_rewards.exact import exact
from reasoner_rewards.json_schema import json_schema
from reasoner_rewards.math import math
from reasoner_rewards.regex import regex
from reasoner_rewards.think_format import think_format
from tests.chat_templates import CONTROL, DEEPSEEK_R1, chat_tokenizer
from tests.scored import scored
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
    return made(response_text(tokenizer, ids, stop, opened, ()), ids)


def made(text: str, ids: Sequence[int]) -> Response:
    return Response(text, tuple(ids), (True,) * len(ids), (-1.0,) * len(ids), "stop", 0)


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


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("kind", ["bytes", "prefix", "first", "unigram"])
def test_marks_stay_where_the_tokenizer_calls_them_special_without_naming_them(
    kind: str, opening: str, closing: str
) -> None:
    """A tokenizer's own list of special tokens (`all_special_ids`) has the named ones alone; decoding drops all."""
    tokenizer = chat_tokenizer(kind, (*CONTROL, opening, closing))
    assert tokenizer.convert_tokens_to_ids(opening) not in tokenizer.all_special_ids
    ids = [*tokenizer.convert_tokens_to_ids([opening]), *tokenizer.encode("It is 2.", add_special_tokens=False)]
    ids += [*tokenizer.convert_tokens_to_ids(["<|im_start|>", closing]), *tokenizer.encode(" two <|im_end|>")]
    text = response_text(tokenizer, ids, (), "", ())
    assert " ".join(text.split()) in (f"{opening}It is 2.{closing} two", f"{opening} It is 2.{closing} two")
    assert opened_block(tokenizer, tokenizer.encode(f"What?{opening}", add_special_tokens=False)) == opening


def test_the_end_token_is_no_text_though_it_is_no_special_token() -> None:
    tokenizer = chat_tokenizer(special=False)
    ids = tokenizer.encode("It is 2.<|im_end|>", add_special_tokens=False)
    assert response_text(tokenizer, ids, (), "", ()) == "It is 2.<|im_end|>"
    assert response_text(tokenizer, ids, (), "", {ids[-1]}) == "It is 2."
    assert "<|im_end|>" in response_text(tokenizer, [*ids, *ids[:2]], (), "", {ids[-1]})


@pytest.mark.parametrize("special", [True, False])
def test_a_template_that_opens_the_thinking_has_it_in_the_text_and_the_format_is_kept(special: bool) -> None:
    tokenizer = chat_tokenizer(control=(*CONTROL, "<think>", "</think>"), template=DEEPSEEK_R1, special=special)
    renderer = open_renderer(tokenizer, PromptConfig())
    (prompt,) = render([Problem("p", (Message("user", "1+1?"),), "2")], renderer, 100)
    assert "<think>" in renderer.facts()["thinking"]
    opened = opened_block(tokenizer, prompt.token_ids)
    ids = tokenizer.encode("One and one.</think>\n\nIt is \\boxed{2}.</s>", add_special_tokens=False)
    ends = renderer.turn_end().added_to(SamplingParams(1.0, 8)).end_tokens
    response = made(response_text(tokenizer, ids, (), opened, ends), ids)
    assert response.text == "<think>\nOne and one.</think>\n\nIt is \\boxed{2}."
    assert value(think_format(prompt.problem, response)) == value(math(prompt.problem, response)) == 1.0


def test_a_model_whose_responses_nothing_ends_is_refused() -> None:
    with pytest.raises(SamplerError, match=r"no end token, and its chat template writes nothing .*sampling\.stop"):
        all_end_tokens((), SamplingParams(1.0, 8))
    assert all_end_tokens((), SamplingParams(1.0, 8, stop=("\n",))) == frozenset()
    assert all_end_tokens((1, 2), SamplingParams(1.0, 8, end_tokens=(2, 3))) == {1, 2, 3}


@pytest.mark.parametrize("value", ["x", [1, "x"], True, 1.5, [None]])
def test_an_end_token_that_is_no_id_is_refused_with_its_file(tokenizer: Any, tmp_path: Path, value: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(
        DataError, match=r"generation_config\.json: eos_token_id must be a token's id or a list of them"
    ):
        end_tokens(tmp_path, tokenizer)


def value(score: Any) -> float:
    assert isinstance(score, Score)
    return score.value


WITH_ANSWERS: list[tuple[RewardSource, str, str, dict[str, Any]]] = [
    (math, r"\boxed{6}", r"\boxed{7}", {}),
    (choice, "The answer is (B).", "The answer is (A).", {}),
    (exact, "B", "A", {}),
    (exact, r"\boxed{B}", r"\boxed{A}", {"extract": "boxed"}),
    (regex, "Answer: B.", "Answer: A.", {"pattern": r"Answer: (\w)", "group": 1}),
    (regex, "B", "A", {"pattern": "{answer}", "full": True}),
    (json_schema, "{}", "{", {"schema_inline": {"type": "object"}}),
    (boxed_format, r"\boxed{B}", "A", {}),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize(("source", "right", "wrong", "options"), WITH_ANSWERS)
def test_what_is_thought_is_no_answer_between_whichever_marks(
    source: RewardSource, right: str, wrong: str, options: dict[str, Any], opening: str, closing: str
) -> None:
    answer = "6" if source is math else "B"

    def value(text: str) -> float:
        return scored(source, text, answer, **options).value

    assert value(f"{opening}\n{wrong}\n{closing}\n{right}") == 1.0
    assert value(f"{wrong}\n{closing}\n{right}") == 1.0
    assert value(f"{opening}\n{right}\n{closing}\n{wrong}") == 0.0
    assert value(f"{opening}\n{right}") == 0.0
    assert value(f"{opening}\n{wrong}\n{closing}\n{right}\n{opening}") == 0.0


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_program_is_looked_for_after_the_thinking_and_may_have_marks_in_it(opening: str, closing: str) -> None:
    other = next(pair for pair in PAIRS if pair[0] != opening)
    program = f"def clean(text):\n    return text.removeprefix('{other[0]}').removesuffix('{other[1]}')\n"
    draft = "```python\nx = 1\n```"
    result, _ = program_in(f"{opening}\n{draft}\n{closing}\n```python\n{program}```", "fenced", ("python",))
    assert (result or "").strip() == program.strip()
    assert program_in(f"{opening}\n{draft}", "fenced", ("python",)) == (
        None,
        "no program: the think block is not closed",
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ""),
        ("six", "six"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b</think>c", "c"),
        ("<think>a<think>b</think>c", "c"),
        ("<think>a", None),
        ("<think>a</think>b<think>c", None),
        ("<think>a</thinking>b", None),
        ("<thinking>a</think>b", None),
        ("<think>the <thought> tag</think>b", "b"),
        ("<think>a</think>the <thought> tag", "the <thought> tag"),
        ("<think>a</think>the </thought> tag", "the </thought> tag"),
        ("<thinker>a", "<thinker>a"),
        ("<THINK>a", "<THINK>a"),
        ("[THINK]a[/THINK]b", "b"),
        ("[think]a", "[think]a"),
    ],
)
def test_the_first_mark_says_between_which_a_response_thinks(text: str, answer: str | None) -> None:
    assert after_thinking(text) == answer


@pytest.mark.parametrize(
    ("token_ids", "times", "repeated"),
    [
        ([1, 2, 3, 1, 2, 3], 2, True),
        ([9, 1, 2, 3, 1, 2, 3], 2, True),
        ([1, 2, 3, 1, 2, 3, 1], 2, True),  # 2, 3, 1 too
        ([1, 2, 3, 1, 2, 3, 4], 2, False),
        ([1, 2, 3, 1, 2, 3], 3, False),
        ([7, 7, 7], 3, True),
        ([7, 7], 3, False),
        ([7, 8, 7], 2, False),
        ([7], 2, False),
        ([*range(64), *range(64)], 2, True),
        ([*range(65), *range(65)], 2, False),
    ],
)
def test_a_repetition_is_the_same_few_tokens_in_a_row(token_ids: list[int], times: int, repeated: bool) -> None:
    assert repeats(token_ids, times) == repeated
