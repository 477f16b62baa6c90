"""A model of every kind does what the table of docs/models.md says; `scripts/check_models` tries all of them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from scripts import models_table
from tests import model_trials
from tests.architectures import BY_NAME, Kind, build
from tests.model_trials import Verdict

pytestmark = pytest.mark.slow

NAMES = (
    "llama",
    "qwen3",
    "olmo3",
    "phi3-longrope",
    "gemma2",
    "nemotron",
    "bloom",
    "mixtral",
    "gpt_oss",
    "qwen3_5",
    "granite4",
    "mamba2",
    "gemma3_vl",
    "qwen2_5_vl",
)
"""one of every kind"""
FOUND = models_table.read()["models"]


def test_every_kind_is_among_those_that_are_tried() -> None:
    assert {kind for name in NAMES for kind in BY_NAME[name].kinds} == set(get_args(Kind))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_does_what_the_table_says(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / "model")
    (tmp_path / "scratch").mkdir()
    got = {
        "learner": model_trials.learner(folder),
        "packing": model_trials.packing(folder),
        "hf": model_trials.run(folder, tmp_path / "scratch"),
    }
    assert got == {trial: Verdict(*FOUND[name][trial]) for trial in got}
