"""The documentation's tables are what the code says, its links lead somewhere, its settings load."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from reasoner.settings import load_config
from scripts.document import written

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "plugins" / "README.md"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert written(text) == text, "run `.venv/bin/python scripts/document.py`: it writes what the code says now"


def test_there_are_tables() -> None:
    named = {name for page in PAGES for name in re.findall(r"<!-- (\w+): scripts/document", page.read_text("utf-8"))}
    assert named == {"methods", "metrics", "validation", "scoring", "mathematics", "hooks", "commands", "attacks"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_mixture_of_the_methods_page_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gro.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert set(tomllib.loads(block)["gro"]["terms"]) == {"grpo", "dpo"}
    task = tmp_path / "mixture.toml"
    task.write_text(f"""
{block}
[model]
path = "somewhere"
[data.train]
path = "train.jsonl"
[data.eval]
path = "eval.jsonl"
[[rewards]]
source = "math"
[evaluation]
correct = "math"
""")
    terms = load_config(task).config.gro.terms
    assert terms["dpo"].pairing.rule == "correct-incorrect"
    assert terms["dpo"].schedule.kind == "linear"
