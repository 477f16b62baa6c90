"""The tiny models are what their rows say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from tests.architectures import ARCHITECTURES, Architecture, build, random_model


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of transformers' GPT-BigCode
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_model_is_tied_and_named_as_its_row_says(architecture: Architecture, tmp_path: Path) -> None:
    build(architecture.name, tmp_path)
    model = random_model(architecture)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == ("tied" in architecture.kinds)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert (not set(file.keys()) <= model.state_dict().keys()) == ("converted" in architecture.kinds)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_next"])
def test_a_model_is_the_same_every_time_and_far_from_uniform(name: str) -> None:
    architecture = next(each for each in ARCHITECTURES if each.name == name)
    ids = torch.arange(40)[None]
    one, same, other = (random_model(architecture, seed=seed)(ids).logits.detach() for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.log_softmax(-1).std() > 0.3
