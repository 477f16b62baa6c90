"""What the README says is so: its tree, its commands, its verifier."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from reasoner.cli.app import app
from reasoner.loading import load_config
from reasoner.plugins.manager import build_manager, reward_sources
from reasoner.records import Message, Problem, Response, Score

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fences if name == language]


def test_the_tree_names_every_folder() -> None:
    """test_docs.py holds that the tree is current; the folders beside `reasoner` are named by hand."""
    (tree,) = [block for block in blocks("") if block.startswith("reasoner/")]
    top = {line.split()[0].rstrip("/") for line in tree.splitlines() if not line.startswith(" ")}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert top == folders - {"dist", "runs"}
    assert [line for line in tree.splitlines() if len(line.split()) < 3] == [], "a package without a docstring"


def test_scripts_exist_and_can_be_run() -> None:
    named = set(re.findall(r"^(scripts/\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE))
    assert {"scripts/quickstart", "scripts/test"} <= named
    for script in named:
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_every_command_and_option_exists() -> None:
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    lines = [line.partition(" #")[0] for line in text.splitlines() if line.startswith("reasoner ")]
    assert lines
    runner = CliRunner()
    for line in lines:
        words = shlex.split(line)[1:]
        path = [word for word in words[:2] if word.isalpha()]
        help_text = runner.invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
        assert help_text.exit_code == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in help_text.output, line
    assert get_command(app)


def test_the_verifier_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in blocks("python") if "my_verifier.py" in block]
    (settings,) = [block for block in blocks("toml") if "my.toml" in block]
    Path("my_verifier.py").write_text(code)
    Path("my.toml").write_text(settings)
    config = load_config("math-gsm8k", "laptop", [Path("my.toml")], (), ("my_verifier.py",)).config
    assert [reward.source for reward in config.rewards] == ["math", "contains_unit"]
    source = reward_sources(build_manager(("my_verifier.py",)))["contains_unit"]
    problem = Problem("p", (Message("user", "?"),), "1")
    response = Response("3 kg", (1,), (True,), (-0.1,), "stop", 0)
    assert source(problem, response, unit="kg") == Score(1.0)
    assert source(problem, response, unit="km") == Score(0.0, note="no km")
