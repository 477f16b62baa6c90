"""docs/rewards.md says of every rule-based source exactly the options that it has, and its examples are accepted."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from reasoner import Message, Problem, Response, RewardSource, Score
from reasoner.config import RewardConfig
from reasoner.plugins.options import field_documents
from reasoner.testing.cases import load_cases
from reasoner_rewards import language, register_rewards
from reasoner_rewards.math import math

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
SOURCES = {source.name: source for source in register_rewards()}
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


def test_every_source_has_a_section() -> None:
    assert list(SECTIONS) == list(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_options_are_those_of_the_source(name: str) -> None:
    header, _, *rows = [line for line in SECTIONS[name].splitlines() if line.startswith("|")]
    assert header == "| name | type | default | meaning |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {row[0].strip("`"): row[2] for row in cells} == defaults(SOURCES[name])
    described = field_documents(SOURCES[name].options)
    for option, _, _, meaning in cells:
        assert meaning.startswith(" ".join(described.get(option.strip("`"), "").split())), option


def defaults(source: RewardSource) -> dict[str, str]:
    """Every option with its default as the page spells it."""
    return {
        name: "needed" if field.is_required() else spelled(field.annotation, field.default)
        for name, field in source.options.model_fields.items()
    }


def spelled(annotation: Any, default: object) -> str:
    if default is None:
        return "unset"
    return f"`{json.dumps(TypeAdapter(annotation).dump_python(default, mode='json'))}`"


@pytest.mark.parametrize("name", SOURCES)
def test_examples_are_accepted(name: str) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```$", SECTIONS[name], flags=re.MULTILINE | re.DOTALL)
    (entry,) = tomllib.loads(block)["rewards"]
    configured = RewardConfig.model_validate(entry)
    assert configured.source == name
    assert set(SOURCES[name].check_options(configured.options)) == set(SOURCES[name].options.model_fields)


def test_every_field_that_a_verifier_gets_is_described() -> None:
    """The table is written from `reasoner.records`; that it is up to date is tested with the others."""
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `(.+?)` \| (.*) \|$", PAGE, flags=re.MULTILINE)
    records = (Problem, Message, Response, Score)
    named = [(record.__name__.lower(), each.name) for record in records for each in fields(record)]
    assert [(record, name) for record, name, _, _ in rows] == named
    assert all(len(meaning) > 10 for *_, meaning in rows)
    assert "docs/rewards.md#what-it-gets" in (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")


def test_the_languages_are_listed() -> None:
    (codes,) = re.findall(r"The codes: ([a-z\s]+)\.", SECTIONS["language"])
    assert codes.split() == sorted(get_args(language.Language))


def test_the_page_on_reward_hacking_has_a_row_for_every_source_and_its_cheats_do_not_pay(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reward-hacking.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(SOURCES)
    (block,) = re.findall(r"^```json\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "cheats.jsonl").write_text(block)
    cases = load_cases(tmp_path / "cheats.jsonl")
    assert [math(case.problem, case.response).value for case in cases] == [case.expected for case in cases] == [0.0] * 3
