"""The table of models has every architecture that can be tried, and nothing in it went wrong."""

from __future__ import annotations

import pytest

from scripts import models_table
from tests.architectures import ARCHITECTURES, Architecture

FOUND = models_table.read()["models"]


def test_the_table_has_a_row_for_every_architecture() -> None:
    assert {name: row["class"] for name, row in FOUND.items()} == {each.name: each.model for each in ARCHITECTURES}, (
        "run scripts/check_models with the new names"
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_model_works_or_is_refused(architecture: Architecture) -> None:
    row = FOUND[architecture.name]
    tried = {column: row[column] for column in models_table.COLUMNS if column in row}
    assert tried.keys() >= models_table.COLUMNS.keys() - {"vllm"}
    assert [column for column, (kind, _) in tried.items() if kind == "FAULT"] == []
    assert all(words for kind, words in tried.values() if kind == "refused")


def test_a_refusal_is_written_out_once_with_its_number() -> None:
    refused = ["refused", "OneModel cannot <do> it"], ["refused", "OtherModel cannot <do> it"]
    rows = {
        "one": {"class": "OneModel", "learner": ["works", ""], "vllm": refused[0], "lora": refused[0]},
        "other": {"class": "OtherModel", "learner": ["works", "packed"], "vllm": refused[1], "lora": ["refused", "no"]},
    }
    lines = models_table.table({"versions": {"torch": "1"}, "models": rows}).splitlines()
    assert lines[4] == "| one | OneModel | works | not tried | not tried | refused (1) | refused (1) | not tried |"
    assert lines[5] == "| other | OtherModel | packed | not tried | not tried | refused (1) | refused (2) | not tried |"
    assert lines[7:] == ["1. MODEL cannot &lt;do> it", "2. no"]
