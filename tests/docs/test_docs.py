"""The documentation's tables are what the code says, its links lead somewhere, its settings load."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from reasoner.cli.app import app
from reasoner.config import Config
from reasoner.loading import load_config
from reasoner.loading.introspection import keys_of
from reasoner.monitoring.alarms import RULES
from reasoner.plugins.options import field_documents
from scripts import harness
from scripts.document import written
from scripts.keys import classes_in

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "plugins" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert written(text) == text, "run `.venv/bin/python scripts/document.py`: it writes what the code says now"


def fields_of(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Each field with its documentation, those of the sections inside included."""
    documents = field_documents(section)
    for name, field in section.model_fields.items():
        yield f"{section.__name__}.{name}", " ".join(documents.get(name, "").split())
        for inner in classes_in(field.annotation):
            if issubclass(inner, BaseModel):
                yield from fields_of(inner)


def test_every_key_is_documented_by_a_full_phrase() -> None:
    fields = dict(fields_of(Config))
    assert len(fields) > 90
    incomplete = [name for name, text in fields.items() if not re.fullmatch(r"[A-Z0-9`].*\.", text)]
    assert incomplete == [], "a full phrase that stands alone, with a capital letter and a full stop"


def test_there_are_tables() -> None:
    named = {name for page in PAGES for name in re.findall(r"<!-- (\w+): scripts/document", page.read_text("utf-8"))}
    assert named == {
        "methods",
        "metrics",
        "validation",
        "embedded",
        "evening",
        "scoring",
        "shortcuts",
        "shortcuts_found",
        "mathematics",
        "hooks",
        "records",
        "commands",
        "changes",
        "trl",
        "verl",
        "attacks",
        "models",
        "checkpoints",
        "step_cost",
        "configuration",
        "layout",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}, "mend docs/README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_and_options_exist(page: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    for line in (line.partition(" #")[0] for line in text.splitlines() if line.startswith("reasoner ")):
        words = shlex.split(line)[1:]
        command: Any = get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not getattr(command, "commands", {}), line
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert option in known, line


NAMED_KEY = re.compile(r"(?<![\w./-])((?:[a-z_]+\.)(?:[A-Za-z_]+\.)*[a-z_]+)(?: = |=)")


def keys_named(text: str) -> set[str]:
    """`learning.token_budget`, `gro.terms.NAME.entropy = 0.001` and the like: those that begin with a section."""
    found = {*NAMED_KEY.findall(text), *re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", text)}
    sections = {*Config.model_fields} - {"task", "title", "profile"}
    return {
        key for key in found if key.split(".")[0] in sections and not key.endswith((".path", ".md", ".py", ".json"))
    }


@pytest.mark.parametrize(
    "file",
    [
        *(ROOT / "docs" / f"{name}.md" for name in ("getting-started", "concepts", "troubleshooting", "security")),
        *(ROOT / "reasoner" / name for name in ("training/guards/nonfinite.py", "planning/memory/needs.py")),
    ],
    ids=lambda file: file.name,
)
def test_keys_that_advice_names_exist(file: Path) -> None:
    named = keys_named(file.read_text(encoding="utf-8"))
    assert named or file.name == "security.md"
    for key in named:
        parts = tuple(key.replace("rewards.NAME", "rewards.entry").split("."))
        fields = keys_of(parts[:-1])
        assert fields is not None, key
        assert parts[-1] in fields, key


def test_every_warning_has_its_place_in_troubleshooting() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = "\n".join(line for line in page.splitlines() if line.startswith("## "))
    assert {name for name in RULES if f"`{name}`" not in headings} == set()


def test_the_mixture_of_the_methods_page_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gro.md").read_text(encoding="utf-8")
    block, of_teacher = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert set(tomllib.loads(block)["gro"]["terms"]) == {"grpo", "dpo"}
    task = tmp_path / "mixture.toml"
    rest = """
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
"""
    task.write_text(of_teacher + rest)
    assert load_config(task).config.loads_teacher
    task.write_text(block + rest)
    terms = load_config(task).config.gro.terms
    assert terms["dpo"].pairing.rule == "correct-incorrect"
    assert terms["dpo"].schedule.kind == "linear"


def test_prose_around_a_measured_table_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PAGES", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- written by scripts/a.py -->\nold\n<!-- end -->\nAfter.\n")
    for table in ("| longer |\n| new |", "| new |"):
        harness.write_block("page.md", "a.py", table)
        assert page.read_text() == f"Before.\n<!-- written by scripts/a.py -->\n{table}\n<!-- end -->\nAfter.\n"
    with pytest.raises(ValueError, match=r"has no block that begins with '<!-- written by scripts/b.py -->'"):
        harness.write_block("page.md", "b.py", "")


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "validation").glob("*.md")), ids=lambda page: page.name)
def test_a_block_in_a_page_of_measurements_has_an_end_and_a_script(page: Path) -> None:
    text = page.read_text("utf-8")
    scripts = re.findall(r"<!-- written by scripts/(\w+\.py) -->", text)
    assert all((ROOT / "scripts" / script).is_file() for script in scripts)
    assert text.count("<!-- end -->") in (0, len(scripts))
