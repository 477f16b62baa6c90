"""Tokens that a model has no embedding for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reasoner.data.prompts.vocabulary import check_token_ids
from reasoner.errors import DataError
from tests import model_trials
from tests.tiny import build_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 260 tokens."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def _check(folder: Path, tokenizer: Any, text: str) -> None:
    check_token_ids(folder, tokenizer, [("the prompt of problem p:1", tokenizer(text).input_ids)])


def test_a_token_that_was_added_is_refused_where_it_is_used(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["<think>"], special_tokens=True)
    _check(tiny, tokenizer, "no such token")
    with pytest.raises(DataError, match=r"prompt of problem p:1 with the token '<think>', number 260.*260 tokens only"):
        _check(tiny, tokenizer, "one <think>")


def test_an_end_token_that_was_added_is_refused(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    with pytest.raises(DataError, match="its end token with the token '<end>', number 260"):
        _check(tiny, tokenizer, "")


def test_the_last_embedding_is_known(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    check_token_ids(tiny, tokenizer, [("a prompt", (0, 259))])
    with pytest.raises(DataError, match="a prompt with the token None, number 260"):
        check_token_ids(tiny, tokenizer, [("a prompt", (0, 260))])


def test_the_tokenizer_of_another_model_is_refused(tiny: Path) -> None:
    words = {f"w{number}": number for number in range(300)}
    core = Tokenizer(WordLevel(words, unk_token="w0"))
    with pytest.raises(DataError, match=r"'w299', number 299.*Take the tokenizer that the model was trained with"):
        _check(tiny, PreTrainedTokenizerFast(tokenizer_object=core), "w299")


def test_a_critic_is_named_as_such(tiny: Path) -> None:
    with pytest.raises(DataError, match=r"^critic\.path: "):
        check_token_ids(tiny, AutoTokenizer.from_pretrained(tiny), [("a prompt", (260,))], "critic.path")


def test_a_run_is_refused_before_anything_is_opened(tiny: Path, tmp_path: Path) -> None:
    folder, scratch = tmp_path / "model", tmp_path / "scratch"
    shutil.copytree(tiny, folder)
    scratch.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.chat_template = "<|new|>" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    verdict = model_trials.run(folder, scratch)
    assert verdict.kind == "refused"
    assert re.search(r"the prompt of problem \S+ with the token '<\|new\|>', number 260", verdict.words)
    assert not (scratch / "runs").exists()
