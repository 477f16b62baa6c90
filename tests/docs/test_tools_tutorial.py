"""The tutorial of docs/tutorial-tools.md, followed literally with a tiny model: its files and commands, in order."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from reasoner.plugins import manager as hooks
from tests.command import Cli
from tests.tiny import build_tiny_model

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tutorial-tools.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```(bash|console)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
MODEL = "embedded:smollm2-135m-instruct"
SMALL = """
[sampling]
engine = "hf"
group_size = 2
max_tokens = 4
max_prompt_tokens = 2048
[learning]
problems_per_step = 2
token_budget = 4096
[run]
steps = 2
[data.eval]
limit = 2
[evaluation]
samples = 2
"""
"""what the test lays over every task: two steps of a model with a token for every byte"""


def commands() -> list[tuple[list[str], str | None]]:
    """Every command of the page in order, with what it prints where the page shows it."""
    result: list[tuple[list[str], str | None]] = []
    for kind, text in BLOCKS:
        if kind == "console":
            first, _, printed = text.partition("\n")
            result.append((shlex.split(first.removeprefix("$ ")), printed))
        else:
            result += [(shlex.split(line), None) for line in text.splitlines()]
    return result


def test_the_page_trains_evaluates_and_makes_a_tool() -> None:
    names = [" ".join(words[1:3]) for words, _ in commands()]
    assert list(FILES) == ["shop.py", "shop.toml"]
    assert {"run calc", "eval calc", "plugins check", "environments test", "run shop.toml", "eval shop.toml"} <= {
        *names
    }
    assert sum(printed is not None for _, printed in commands()) == 2


def test_the_examples_of_the_page_are_what_its_tool_says(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(FILES["shop.py"])
    price = hooks.tools(hooks.build_manager([str(tmp_path / "shop.py")]))["price"].opened({})
    shown = re.findall(r"<tool>price (\d+)</tool><result>(.*?)</result>", FILES["shop.toml"])
    assert len(shown) == 2
    for article, result in shown:
        assert price(article) == result


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    model = build_tiny_model(tmp_path / "tiny", positions=4096)  # prompts have examples
    Path("small.toml").write_text(f'model.path = "{model}"\n{SMALL}')
    trained = ""
    for words, printed in commands():
        assert words[0] == "reasoner"
        arguments = [str(model) if word == MODEL else word.replace("runs/RUN", trained) for word in words[1:]]
        if words[1] in ("run", "eval"):
            arguments += ["--config", "small.toml"]
            arguments += ["--set", "data.train.limit=40"] * (words[1] == "run")
        done = cli(*arguments)
        failed = printed is not None and ": Error: " in printed
        assert done.code == failed, f"{shlex.join(arguments)}\n{done.out}{done.err}"
        if printed is not None:
            assert done.out == printed
        if words[1] == "run" and "--dry-run" not in words:
            (trained,) = map(str, Path("runs").glob(f"*-{Path(words[2]).stem}"))
            figures = [json.loads(line) for line in Path(trained, "metrics.jsonl").read_text().splitlines()]
            assert all("tools/calls" in step for step in figures)
            assert len(figures) == 2
        if words[1:3] == ["eval", "calc"]:
            assert "calc-no-tool" in done.out
