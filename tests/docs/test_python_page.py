"""docs/python.md, its notebook and the README's example are what the functions do."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import reasoner
from reasoner.loading import load_config
from reasoner.models.embedded import embedded_target
from tests.made_up import made_up_run
from tests.notebook import Cells, sources
from tests.tiny import build_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_signatures_are_those_of_the_functions() -> None:
    shown = [re.fullmatch(r"reasoner\.(\w+)(\(.*\)) -> (\w+)\n", block) for block in blocks(PAGE)]
    signatures = {match[1]: (match[2], match[3]) for match in shown if match}
    assert set(signatures) == {"run", "score", "open_run", "evaluate"}
    for name, (arguments, returned) in signatures.items():
        signature = inspect.signature(getattr(reasoner, name))
        bare = signature.replace(
            parameters=[each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()],
            return_annotation=inspect.Signature.empty,
        )
        assert (arguments, returned) == (str(bare), signature.return_annotation), name


def test_everything_that_a_run_offers_is_on_the_page() -> None:
    for name in (name for name in vars(reasoner.Run) if not name.startswith("_")):
        assert f"`{name}`" in PAGE or f"`{name}(" in PAGE, name


@pytest.mark.parametrize("text", [README, PAGE], ids=["README.md", "docs/python.md"])
def test_the_first_example_works_as_printed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, ...]] = []

    def finished(*arguments: str, resume: str) -> Path:
        asked.append(arguments)
        folder = made_up_run(tmp_path, steps=3)
        (folder / "checkpoints" / "step-000003" / "model").mkdir(parents=True, exist_ok=True)
        return folder

    monkeypatch.setattr("reasoner.api.run.call", finished)
    example = next(block for block in blocks(text) if "reasoner.run(" in block)
    metrics, rollouts, *rest, model = Cells().run(example)
    assert len(metrics) == 3
    assert set(rollouts["step"]) == {3}
    assert rest[-1]._repr_html_()
    assert model.name == "model"
    words = asked[0]
    sets = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    plugins = [words[at + 1] for at, word in enumerate(words) if word == "--plugin"]
    config = load_config("math-gsm8k", "laptop", (), sets, plugins).config
    assert [(each.source, each.weight) for each in config.rewards] == [("math", 1.0), ("short_answer", 0.5)]
    assert config.run.steps == 3


def test_the_example_of_scoring_works_as_printed() -> None:
    cells = Cells()
    cells.run(
        "import reasoner\nfrom reasoner import reward\n"
        + next(b for b in blocks(PAGE) if "@reward" in b).split("\n\n\n")[1]
    )
    rewards, components, frame = cells.run(next(block for block in blocks(PAGE) if "reasoner.score(rows" in block))
    assert rewards == [2.5]
    assert [part.source for part in components[0]] == ["math", "short_answer", "boxed_format"]
    assert frame["reward/boxed_format"].tolist() == [1.0]


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From the first cell to the last, with a tiny model in the cache in the place of the embedded one, with which
    `test_trajectories` trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build_tiny_model(embedded_target("smollm2-135m-instruct"), positions=1024)
    cells = Cells()
    shown: list[Any] = [cells.run(source) for source in sources(NOTEBOOK)]
    assert "step 2/2" in capsys.readouterr().out
    run = cells.namespace["run"]
    assert (run.state, run.steps) == ("finished", 2)
    tried, _, metrics, rollouts, evaluations, report, scores, model = [value for value in shown if value is not None]
    assert tried["reward/short_answer"].tolist() == [1.0, 0.0]
    assert metrics["step"].tolist() == [1, 2]
    assert rollouts["note/short_answer"].str.endswith("words").all()
    assert set(evaluations["step"]) == {0, 2}
    assert "short_answer" in report.html
    assert len(scores) == 2 * 2 * 4 + 2 * 2
    assert (model / "config.json").is_file()
